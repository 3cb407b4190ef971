"""groat's side of a whole training, in a process of its own: `python -m benchmarks.groat_training FOLDER`.

It prints a line of JSON for what it works with, one for every step, and one at the end. Only steps are timed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.sides import GROAT
from benchmarks.training_work import TrainingWork
from groat.kernels.native import kernels_in_use
from groat.memory.measure import gib, peak_bytes
from groat.model.peft_files import save_peft
from groat.tracking.console import Console
from groat.training.build import Built, build
from groat.training.phases import Phases
from groat.training.step import step_seeds, train_step
from groat.types import UserError


def main() -> None:
    work = TrainingWork.read(Path(sys.argv[1]))
    built = build(work.config)
    _tell(**_facts(built, work))
    phases = Phases(Console(quiet=True))
    for step in range(1, work.config.training.max_steps + 1):
        _tell(**_step(built, work, step, phases))
        if step in work.saved_steps:
            folder = work.adapter(GROAT, step)
            save_peft(built.parts.learner.adapter, built.model.spec, built.model.name, folder)
    _tell(peak_gib=round(gib(peak_bytes()), 3), interventions=built.guard.take_interventions())


def _step(built: Built, work: TrainingWork, step: int, phases: Phases) -> dict[str, Any]:
    problems = work.problems[step - 1]
    started = time.perf_counter()
    seeds = step_seeds(work.config.seed, step, len(problems))
    result = train_step(built.parts, problems, seeds, built.parts.learner.adapter, phases)
    seconds = time.perf_counter() - started
    if result.update.skipped:
        raise UserError(f"step {step} trained nothing: {result.update.skipped}")
    return {
        "step": step,
        "seconds": round(seconds, 4),
        "reward": round(result.metrics["reward"], 5),
        "problem_ids": [problem.id for problem in problems],
    }


def _facts(built: Built, work: TrainingWork) -> dict[str, Any]:
    encoded = [built.parts.encode(problems) for problems in work.problems]
    return {
        "storage": built.plan.storage.name,
        "compute": built.model.compute,
        "kv_cache": built.model.kv_storage,
        "kernels": kernels_in_use().partition(" (")[0],
        "threads": torch.get_num_threads(),
        "prompt_tokens": [len(prompt.token_ids) for prompts in encoded for prompt in prompts],
    }


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
