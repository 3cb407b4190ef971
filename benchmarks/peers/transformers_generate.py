"""Rollouts with transformers' generate in float32. Arguments: model folder, work.json."""

from __future__ import annotations

import time

import torch
from peer_process import asked, chats_of, fastest_rollouts, tell
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, work = asked()
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
chats = [chat for chat in chats_of(work) for _ in range(work["group_size"])]
inputs = tokenizer.apply_chat_template(
    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
)


def seconds_for(new_tokens: int) -> float:
    started = time.perf_counter()
    output = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    seconds = time.perf_counter() - started
    assert output.shape[1] == inputs["input_ids"].shape[1] + new_tokens, "every completion has its full length"
    return seconds


rate = fastest_rollouts(work, seconds_for)
tell(
    "transformers generate",
    inputs["attention_mask"].sum(1).tolist()[:: work["group_size"]],
    ("transformers", "torch"),
    rollout_tokens_per_second=rate,
)
