"""Work W1's whole GRPO steps with TRL, the first left out as warm-up. Arguments: model folder, work.json."""

import json
import resource
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

NUM_STEPS, MICRO_BATCH = 3, 8
folder, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
completions_per_step = len(work["questions"]) * work["group_size"]
ends: list[float] = []


class Clock(TrainerCallback):
    def on_step_end(self, *_, **__):
        ends.append(time.perf_counter())


def varied_reward(completions, **_):
    return [(sum(map(ord, completion[0]["content"])) % 997) / 997 for completion in completions]


tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    reward_funcs=[varied_reward],
    args=GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=completions_per_step // MICRO_BATCH,
        num_generations=work["group_size"],
        max_completion_length=work["new_tokens"],
        generation_kwargs={"min_new_tokens": work["new_tokens"]},
        max_steps=NUM_STEPS,
        learning_rate=2e-5,
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=True,
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
    ),
    train_dataset=Dataset.from_list(
        [{"prompt": [{"role": "user", "content": question}]} for question in work["questions"] * NUM_STEPS]
    ),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    callbacks=[Clock()],
)
trainer.train()
print(
    json.dumps(
        {
            "peer": "TRL GRPOTrainer (checkpointing)",
            "step_seconds": round(statistics.median(after - before for before, after in pairwise(ends)), 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        }
    )
)
