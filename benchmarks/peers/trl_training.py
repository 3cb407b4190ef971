"""A whole GRPO training with TRL in float32. Arguments: model folder, folder of the work, settings (JSON), and the
command that gives rewards.

It prints a line of JSON for what it works with, one for every step, and one at the end. Steps are timed; saving the
adapter between them is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peer_process import peak_bytes
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

model_folder, work_folder, settings_json, *reward_command = sys.argv[1:]
folder, settings = Path(work_folder), json.loads(settings_json)
work = json.loads((folder / "work.json").read_text())
options = work["trl"]
problems = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
chats = [problem["prompt"] for problem in problems]
scratch = tempfile.TemporaryDirectory()
worker = subprocess.Popen(reward_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
graded: list[dict[str, Any]] = []


def tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def groats_reward(completions: list[Any], problem_id: list[str], **_: Any) -> list[float]:
    texts = [completion[0]["content"] for completion in completions]
    worker.stdin.write(json.dumps({"problem_ids": problem_id, "texts": texts}) + "\n")
    worker.stdin.flush()
    rewards = json.loads(worker.stdout.readline())
    graded.append({"reward": round(sum(rewards) / len(rewards), 5), "problem_ids": list(dict.fromkeys(problem_id))})
    return rewards


class Clock(TrainerCallback):
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        seconds = time.perf_counter() - self.started
        (record,) = graded
        graded.clear()
        tell(step=state.global_step, seconds=round(seconds, 4), **record)
        if state.global_step in work["saved_steps"]:
            trainer.model.save_pretrained(folder / "TRL" / f"step-{state.global_step}", save_embedding_layers=False)
        self.started = time.perf_counter()


tokenizer = AutoTokenizer.from_pretrained(model_folder)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
trainer = GRPOTrainer(
    model=PeftModel.from_pretrained(model, folder / "start", is_trainable=True),
    reward_funcs=[groats_reward],
    args=GRPOConfig(
        output_dir=scratch.name,
        per_device_train_batch_size=settings["micro_batch"],
        gradient_accumulation_steps=options["generation_batch_size"] // settings["micro_batch"],
        gradient_checkpointing=settings["checkpointing"],
        shuffle_dataset=False,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    ),
    train_dataset=Dataset.from_list(
        [{"prompt": problem["prompt"], "problem_id": problem["id"]} for problem in problems]
    ),
    processing_class=tokenizer,
    callbacks=[Clock()],
)
num_trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
tell(
    peer="TRL GRPOTrainer",
    threads=torch.get_num_threads(),
    num_trained=num_trained,
    prompt_tokens=[len(token_ids) for token_ids in prompts],
)
trainer.train()
worker.stdin.close()
worker.wait()
tell(
    peak_gib=round(peak_bytes() / 2**30, 3),
    versions={package: version(package) for package in ("trl", "transformers", "peft", "torch")},
)
