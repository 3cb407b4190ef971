"""Work W1's rollouts with transformers' generate. Arguments: model folder, work.json."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, work = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
chats = [[{"role": "user", "content": question}] for question in work["questions"] for _ in range(work["group_size"])]
inputs = tokenizer.apply_chat_template(
    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
)


def seconds_for(new_tokens: int) -> float:
    started = time.perf_counter()
    model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return time.perf_counter() - started


seconds_for(4)  # warm-up
rates = [len(chats) * work["new_tokens"] / seconds_for(work["new_tokens"]) for _ in range(2)]
print(
    json.dumps(
        {
            "peer": "transformers generate",
            "rollout_tokens_per_second": round(max(rates), 2),
            "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        }
    )
)
