"""Whole GRPO steps with TRL in float32, gradient checkpointing on. Arguments: model folder, work.json."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from peer_process import asked, chats_of, tell
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

_MICRO_BATCH = 8
folder, work = asked()
chats = chats_of(work)
num_completions, num_steps = len(chats) * work["group_size"], work["num_warm_up"] + work["num_measured"]
micro_batch = math.gcd(num_completions, _MICRO_BATCH)
scratch = tempfile.TemporaryDirectory()
marks: list[float] = []


class Clock(TrainerCallback):
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        marks.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        marks.append(time.perf_counter())


def varied_reward(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
    assert {len(token_ids) for token_ids in completion_ids} == {work["new_tokens"]}, "full length, every completion"
    return [(sum(map(ord, completion[0]["content"])) % 997) / 997 for completion in completions]


tokenizer = AutoTokenizer.from_pretrained(folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
trainer = GRPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    reward_funcs=[varied_reward],
    args=GRPOConfig(
        output_dir=scratch.name,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=num_completions // micro_batch,
        num_generations=work["group_size"],
        max_completion_length=work["new_tokens"],
        generation_kwargs={"min_new_tokens": work["new_tokens"]},
        max_steps=num_steps,
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
    train_dataset=Dataset.from_list([{"prompt": chat} for chat in chats * num_steps]),
    processing_class=tokenizer,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    callbacks=[Clock()],
)
trainer.train()
seconds = [after - before for before, after in pairwise(marks)]
prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
tell(
    "TRL GRPOTrainer (checkpointing)",
    [len(token_ids) for token_ids in prompts],
    ("trl", "transformers", "peft", "torch"),
    step_seconds=statistics.median(seconds[work["num_warm_up"] :]),
)
