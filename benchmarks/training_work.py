"""A whole training, the same for every side, as files: the recipe, each step's problems, the adapter to start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from groat.config.algorithms import GRPOAlgorithmConfig
from groat.config.load import read_yaml, to_yaml
from groat.config.tree import RunConfig
from groat.model.lora import new_adapter
from groat.model.peft_files import save_peft
from groat.model.spec import ModelSpec
from groat.tasks.task import build_task
from groat.training.step import step_problems
from groat.types import Problem

_RECIPE, _WORK, _PROBLEMS, _START = "recipe.yaml", "work.json", "problems.jsonl", "start"


@dataclass(frozen=True)
class TrainingWork:
    """A folder that every side's process reads, and leaves its adapters in."""

    folder: Path
    config: RunConfig
    """groat's; `trl_options` says the same to TRL."""
    every: int
    """Steps between adapters that are saved; one is always saved at the end."""

    @classmethod
    def read(cls, folder: Path) -> TrainingWork:
        every = json.loads((folder / _WORK).read_text())["every"]
        return cls(folder=folder, config=read_yaml(folder / _RECIPE), every=every)

    def write(self, spec: ModelSpec) -> None:
        """Everything a side needs but the model: recipe, problems, first adapter."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / _RECIPE).write_text(to_yaml(self.config))
        work = {"every": self.every, "saved_steps": self.saved_steps, "trl": trl_options(self.config)}
        (self.folder / _WORK).write_text(json.dumps(work, indent=1))
        rows = [asdict(problem) for problems in self.problems for problem in problems]
        (self.folder / _PROBLEMS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        adapter = new_adapter(spec, self.config.lora, torch.Generator().manual_seed(self.config.seed))
        save_peft(adapter, spec, self.config.model.name, self.adapter("", 0))

    @property
    def saved_steps(self) -> list[int]:
        last = self.config.training.max_steps
        return [*range(self.every, last, self.every), last]

    def adapter(self, side: str, steps: int) -> Path:
        """Where a side's adapter after so many steps lies; before any, all sides have the same one."""
        return self.folder / side / f"step-{steps}" if steps else self.folder / _START

    @cached_property
    def problems(self) -> list[list[Problem]]:
        """Of every step, in order."""
        config = self.config
        train = build_task(config.task, config.seed).train
        steps = range(1, config.training.max_steps + 1)
        return [step_problems(train, config.seed, step, config.prompts_per_step) for step in steps]


def trl_options(config: RunConfig) -> Mapping[str, Any]:
    """What TRL's GRPOConfig has to be given, by its names, for the same training. They have the same meaning there."""
    algorithm, sampling, training = config.algorithm, config.sampling, config.training
    assert isinstance(algorithm, GRPOAlgorithmConfig)
    assert training.warmup_ratio == 0, "TRL is not told of it"
    of_algorithm = (
        *("loss_type", "importance_sampling_level", "beta", "num_iterations", "epsilon", "epsilon_high", "delta"),
        *("scale_rewards", "mask_truncated_completions", "top_entropy_quantile"),
    )
    of_sampling = (
        *("num_generations", "max_completion_length", "temperature", "top_p", "top_k", "min_p"),
        "repetition_penalty",
    )
    of_training = (
        *("max_steps", "generation_batch_size", "learning_rate", "lr_scheduler_type", "optim", "adam_beta1"),
        *("adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
    )
    return {
        "seed": config.seed,
        **{name: getattr(algorithm, name) for name in of_algorithm},
        **{name: getattr(sampling, name) for name in of_sampling},
        **{name: getattr(training, name) for name in of_training},
    }
