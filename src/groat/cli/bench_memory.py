"""`groat bench memory`: whole GRPO steps on random weights of a known shape, predicted beside measured peak."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from groat.cli.memory_cases import CASES, SHAPES, MemoryCase
from groat.config.load import to_yaml
from groat.config.tree import (
    ChecksConfig,
    EvaluationConfig,
    MemoryConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from groat.types import UserError

_REWARD = """\
import math

def varied(completion_ids, **_):
    return [math.sqrt((sum(ids) % 997) / 997) for ids in completion_ids]
"""
_PROGRAM = "import sys; from groat.cli.main import main; sys.exit(main())"


def bench_memory(args: list[str]) -> None:
    """One case: `groat train` in a process of its own, whose VmHWM is the measurement."""
    options = _options(args)
    case = options.case
    with _folder(options.folder) as folder:
        model = _model(folder, case)
        figures = _measure(folder, model, case)
    print(_words(figures))
    if options.json:
        print(json.dumps(figures))


def _options(args: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="groat bench memory",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Whole GRPO steps on a model of a known shape with random weights, which are written to disk\n"
        "first (2 bytes a weight): the peak that was planned beside the one that was measured (VmHWM of\n"
        "the process, everything included).",
        epilog="cases:\n" + "\n".join(f"  {name:<28}{case.words}" for name, case in CASES.items()),
    )
    parser.add_argument("--case", required=True, metavar="NAME", help="one of the cases below")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--folder", type=Path, help="keep the random weights here, for further cases of the same shape")
    parser.add_argument("--budget", help="another budget than the case's own")
    parser.add_argument("--completion-length", type=int, help="shorter or longer completions than the case's own")
    options = parser.parse_args(args)
    if options.case not in CASES:
        raise UserError(f"there is no case {options.case!r}: there are {', '.join(CASES)}")
    case = CASES[options.case]
    changes = {"budget": options.budget, "completion_tokens": options.completion_length}
    options.case = replace(case, **{name: value for name, value in changes.items() if value is not None})
    return options


@contextlib.contextmanager
def _folder(kept: Path | None) -> Generator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="groat-bench-memory-") as folder:
        yield Path(folder)


def _model(folder: Path, case: MemoryCase) -> Path:
    """The random weights of a shape: written now, or kept from an earlier case."""
    from groat.model.random_checkpoint import write_random_checkpoint

    model = folder / case.shape
    if not (model / "model.safetensors.index.json").exists():
        config = SHAPES[case.shape]
        _check_space(folder, config)
        print(f"writing random weights: {model} ...", flush=True)
        write_random_checkpoint(model, config)
    return model


def _check_space(folder: Path, config: Mapping[str, Any]) -> None:
    from groat.memory.sizes import weight_bytes
    from groat.model.families import spec_from_hf_config

    needed, free = weight_bytes(spec_from_hf_config(dict(config))) // 2, shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        raise UserError(
            f"the random weights take {needed / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB free: "
            "name a folder on another disk with --folder"
        )


def _measure(folder: Path, model: Path, case: MemoryCase) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="run-") as work:
        recipe = _write_recipe(Path(work), model, case)
        command = [sys.executable, "-c", _PROGRAM, "train", str(recipe)]
        done = subprocess.run(command, check=False)
        if done.returncode:
            raise UserError(f"case {case.name}: groat train ended with exit code {done.returncode}; see above")
        summary = json.loads((Path(work) / "run" / "summary.json").read_text())
    return {
        "case": case.name,
        "predicted_gib": summary["predicted_peak_gib"],
        "measured_gib": summary["peak_gib"],
        "budget_gib": summary["budget_gib"],
        "seconds_per_step": round(summary["train_seconds"] / summary["steps"], 1),
        "completion_tokens": case.completion_tokens,
    }


def _write_recipe(folder: Path, model: Path, case: MemoryCase) -> Path:
    """The case as a recipe like anybody's, with its task and its reward function beside it."""
    rows, rewards, recipe = folder / "rows.jsonl", folder / "rewards.py", folder / "recipe.yaml"
    rows.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in case.prompts()))
    rewards.write_text(_REWARD)
    config = RunConfig(
        output_dir=str(folder / "run"),
        model=ModelConfig(name=str(model)),
        task=TaskConfig(name=str(rows), eval_fraction=0.0, shuffle_dataset=False, reward_funcs=(f"{rewards}:varied",)),
        sampling=SamplingConfig(
            num_generations=case.num_generations,
            max_completion_length=case.completion_tokens,
            min_completion_length=case.completion_tokens,
        ),
        training=TrainingConfig(
            max_steps=case.steps,
            generation_batch_size=case.num_prompts * case.num_generations,
            learning_rate=1e-5,
            save_steps=10_000,
        ),
        evaluation=EvaluationConfig(num_problems=0),
        memory=MemoryConfig(budget=case.budget, storage=case.storage),
        checks=ChecksConfig(policy_canary=False),
    )
    recipe.write_text(to_yaml(config))
    return recipe


def _words(figures: Mapping[str, Any]) -> str:
    budget = "no budget" if figures["budget_gib"] is None else f"budget {figures['budget_gib']:.2f} GiB"
    off = figures["predicted_gib"] / figures["measured_gib"] - 1
    return (
        f"{figures['case']}: predicted {figures['predicted_gib']:.2f} GiB, measured {figures['measured_gib']:.2f} "
        f"({off:+.1%}), {budget}; {figures['seconds_per_step']:.0f} s a step, completions of "
        f"{figures['completion_tokens']} tokens"
    )
