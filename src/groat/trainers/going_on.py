"""Resuming from Python: which run is meant, and whether options and rows are those it was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from groat.config.load import read_yaml
from groat.config.tree import RunConfig
from groat.tasks.task import Task
from groat.tracking.folder import RunFolder
from groat.tracking.store import RunStore
from groat.training.step import step_problems
from groat.types import UserError


def run_to_resume(output_dir: str, given: Path | None, trained_before: Path | None) -> Path:
    """The folder of the run: the one given, this trainer's own, or output_dir."""
    if given is not None and given.parent.name == "checkpoints":
        raise UserError(
            f"resume_from_checkpoint is {given}: groat goes on from the newest checkpoint of a run; give the run's "
            f"folder, {given.parent.parent}"
        )
    folder = given or trained_before or Path(output_dir)
    if "{name}" in str(folder):
        found = sorted(str(path.parent) for path in folder.parent.glob("*/config.yaml"))
        raise UserError(
            f"output_dir is {output_dir}, which names no run: give resume_from_checkpoint the run's folder"
            + (f", one of {', '.join(found)}" if found else "")
        )
    return RunFolder.open(folder).path


def check_same_config(config: RunConfig, folder: Path) -> None:
    """UserError where the options differ from those of the run; max_steps and output_dir may."""
    stored = read_yaml(RunFolder(folder).config_path)
    training = replace(config.training, max_steps=stored.training.max_steps)
    # A run keeps what `auto` came to.
    compute = stored.model.compute if config.model.compute == "auto" else config.model.compute
    kv_cache = stored.model.kv_cache if config.model.kv_cache == "auto" else config.model.kv_cache
    model = replace(config.model, compute=compute, kv_cache=kv_cache)
    asked = replace(config, output_dir=stored.output_dir, training=training, model=model)
    # What keeps or judges nothing but the number of steps follows it.
    limits = {"training.save_total_limit", "training.save_steps", "training.warmup_ratio"}
    may_differ = limits if config.training.max_steps != stored.training.max_steps else set[str]()
    differing = [name for name in _differing(asdict(stored), asdict(asked)) if name.split(":")[0] not in may_differ]
    if differing:
        raise UserError(
            f"the run in {folder} was started with other options: {'; '.join(differing)}. Put them back to go on with "
            "it, or start a new run in another output_dir"
        )


def check_same_rows(config: RunConfig, folder: Path, task: Task) -> None:
    """UserError where the last recorded step drew other problems than these rows would give it."""
    store_path = RunFolder(folder).store_path
    if not store_path.exists() or config.rollouts.curriculum:
        return
    with RunStore.read(store_path) as reader:
        step = reader.last_step()
        rollouts = reader.rollouts(step) if step else []
    if not step or not rollouts:
        return
    recorded = list({row.group_index: row.problem_id for row in rollouts}.values())
    expected = [problem.id for problem in step_problems(task.train, config.seed, step, config.prompts_per_step)]
    # Groups that were drawn anew come after those that every step begins with.
    recorded = recorded[: len(expected)]
    if recorded != expected:
        raise UserError(
            f"train_dataset is not the one that the run in {folder} was started with: at step {step} it would give "
            f"problem {expected[0]}, where the run had {recorded[0]}. Give the same rows in the same order"
        )


def _differing(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in stored.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _differing(cast("dict[str, Any]", value), asked[name], f"{path}.")
        elif value != asked[name]:
            yield f"{path}: {value!r} then, {asked[name]!r} now"
