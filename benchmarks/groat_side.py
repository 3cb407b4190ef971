"""groat's side, in a process of its own whose peak is its own: `python -m benchmarks.groat_side KIND JOB`.

KIND is `rollouts` or `steps`. The last line it prints has the figures as JSON. Rollouts go through the adapter, as they
do in training; the peers that only generate have none.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.job import Job
from benchmarks.rates import best_seconds
from benchmarks.roofline import Learning
from benchmarks.timed_sampler import Drawn, TimedSampler
from groat.cli.bench import fastest_numbers, fixed_config, fixed_task
from groat.config.tree import MemoryConfig, ModelConfig
from groat.kernels.native import kernels_in_use
from groat.kernels.ops import product
from groat.memory.measure import gib, peak_bytes
from groat.model.weights import Weights
from groat.tracking.console import Console
from groat.training.build import Built, build
from groat.training.phases import Phases
from groat.training.step import StepResult, step_seeds, train_step
from groat.trees import grow
from groat.types import Compute, Sample, StorageKind, UserError

_WARM_UP_TOKENS = 4


def rollouts(job: Job) -> dict[str, Any]:
    """Completions of the work again and again; speed and decoding are those of the fastest time."""
    side = _GroatSide(job)
    side.sample(0, _WARM_UP_TOKENS)
    drawn = [side.sample(number + 1, job.work.new_tokens) for number in range(job.num_measured)]
    peak_gib = gib(peak_bytes())
    fastest = min(drawn, key=lambda one: one.seconds)
    alone = _seconds_alone(side.built.model.weights, job.work.num_completions)
    return side.facts() | fastest.figures() | alone | {"peak_gib": peak_gib}


def steps(job: Job) -> dict[str, Any]:
    """Whole steps; every figure is the median of the measured ones."""
    side = _GroatSide(job)
    figures = [side.step(number) for number in range(job.num_warm_up + job.num_measured)][job.num_warm_up :]
    timed = {name: statistics.median(one[name] for one in figures) for name in figures[0]}
    return side.facts() | timed | {"learned": asdict(side.learned), "peak_gib": gib(peak_bytes())}


class _GroatSide:
    """The parts of a run, without its tracking."""

    def __init__(self, job: Job) -> None:
        self._work = job.work
        self._storage, self._compute = fastest_numbers(job.groat.storage, job.groat.compute)
        self.built = _build(job, self._storage, self._compute)
        self._sampler = TimedSampler(self.built.parts.sampler)
        self._parts = replace(self.built.parts, sampler=self._sampler)
        self._problems = self.built.task.train
        self._prompts = self._parts.encode(self._problems)
        self._phases = Phases(Console(quiet=True))
        self.learned = Learning(tokens=0, attended=0, targets=0)
        """By the last step."""

    def sample(self, number: int, new_tokens: int) -> Drawn:
        """Rollouts alone, of so many tokens each."""
        params = replace(self._parts.sampling, max_completion_length=new_tokens, min_completion_length=new_tokens)
        seeds = step_seeds(0, number, len(self._problems))
        with self._phases.phase("sample"), self._sampler.awake():
            self._sampler.sample(self._prompts, self._parts.learner.adapter, params, seeds)
        return self._sampler.last

    def step(self, number: int) -> dict[str, float]:
        """A whole step: its seconds, those of its phases, and its rollouts'."""
        before, started = dict(self._phases.seconds), time.perf_counter()
        seeds = step_seeds(0, number, len(self._problems))
        result = train_step(self._parts, self._problems, seeds, self._parts.learner.adapter, self._phases)
        seconds = time.perf_counter() - started
        self._check_whole(result)
        self.learned = learning_of(result.credit.samples)
        phases = {name: total - before.get(name, 0.0) for name, total in self._phases.seconds.items()}
        return (
            {"step_seconds": seconds, "learned_again": result.update.num_tokens / self.learned.tokens}
            | {f"{name}_seconds": phase for name, phase in phases.items()}
            | self._sampler.last.figures()
        )

    def facts(self) -> dict[str, Any]:
        """What it was done with."""
        prompts = [prompt.token_ids for prompt in self._prompts]
        return {
            "storage": self._storage,
            "compute": self._compute,
            "kv_cache": self.built.model.kv_storage,
            "kernels": kernels_in_use().partition(" (")[0],
            "threads": torch.get_num_threads(),
            "rank": self._parts.learner.adapter.config.r,
            "prompt_tokens": [len(token_ids) for token_ids in prompts],
            "unique_prompt_tokens": len(grow(prompts).token_ids),
            "interventions": self.built.guard.take_interventions(),
        }

    def _check_whole(self, result: StepResult) -> None:
        num_samples, num_drawn = len(result.credit.samples), self._work.num_completions
        if num_samples != num_drawn:
            raise UserError(f"only {num_samples} of {num_drawn} completions had a reward unlike others of their group")


def _build(job: Job, storage: StorageKind, compute: Compute) -> Built:
    work = job.work
    config = fixed_config(len(work.questions), work.group_size, work.new_tokens)
    config = replace(
        config,
        model=ModelConfig(name=job.groat.model, compute=compute),
        memory=MemoryConfig(storage=storage, budget=job.groat.budget),
        sampling=replace(config.sampling, max_concurrent=work.num_completions),
    )
    return build(config, fixed_task(work.questions))


def learning_of(samples: Sequence[Sample]) -> Learning:
    """What has to be computed to learn from these samples, everything they share once."""
    forest = grow([sample.prompt.token_ids + sample.completion.token_ids[:-1] for sample in samples])
    return Learning(
        tokens=len(forest.token_ids),
        attended=sum(position + 1 for position in forest.positions),
        targets=sum(sample.num_tokens for sample in samples),
    )


def _seconds_alone(weights: Weights, num_rows: int) -> dict[str, float]:
    """Products with the frozen matrices and nothing else, as many rows as sequences: a decode step's share of them."""
    linears = [
        one.weight_NK for layer in weights.layers for one in (layer.qkv, layer.output, layer.gate_up, layer.down)
    ]
    inputs = {size: torch.randn(num_rows, size) for size in {matrix.shape[1] for matrix in (*linears, weights.head_VH)}}

    def through_layers() -> None:
        for matrix in linears:
            product(inputs[matrix.shape[1]], matrix)

    head_VH = weights.head_VH
    return {
        "layers_alone_seconds": best_seconds(through_layers),
        "head_alone_seconds": best_seconds(lambda: product(inputs[head_VH.shape[1]], head_VH)),
    }


_KINDS: Mapping[str, Callable[[Job], dict[str, Any]]] = {"rollouts": rollouts, "steps": steps}


def main() -> None:
    kind, job = sys.argv[1:]
    print(json.dumps(_KINDS[kind](Job.read(Path(job)))))


if __name__ == "__main__":
    main()
