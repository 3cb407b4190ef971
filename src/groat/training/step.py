"""One training step, from problems to a new adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groat.algorithms.base import Algorithm, Credit
from groat.learning.learner import Learner, Update
from groat.model.lora import Adapter
from groat.sampling.base import Sampler, SamplingParams
from groat.tasks.rewards import Grader
from groat.training.phases import Phases
from groat.types import Group, Problem, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The objects one step uses."""

    encode: Callable[[Sequence[Problem]], list[Prompt]]
    sampler: Sampler
    sampling: SamplingParams
    grader: Grader
    algorithm: Algorithm
    learner: Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What the run loop records, and the adapter for the next step."""

    groups: Sequence[Group]
    credit: Credit
    update: Update
    reward_metrics: Mapping[str, float]


def train_step(
    parts: Parts, problems: Sequence[Problem], seeds: Sequence[int], adapter: Adapter, phases: Phases
) -> StepResult:
    """Sample, reward, give credit, update. `seeds` has one number per problem."""
    prompts = parts.encode(problems)
    total = len(prompts) * parts.sampling.num_generations * parts.sampling.max_completion_length
    with phases.phase("sample", total, "tokens settled") as done, parts.sampler.awake():
        groups = parts.sampler.sample(prompts, adapter, parts.sampling, seeds, done)
    with phases.phase("reward"):
        groups = parts.grader.grade(groups)
    with phases.phase("score", unit="tokens") as done:
        groups = parts.learner.score(groups, parts.algorithm.needs, done)
    credit = parts.algorithm.assign_credit(groups)
    with phases.phase("learn", unit="tokens") as done:
        update = parts.learner.update(credit, parts.algorithm, done)
    return StepResult(groups=groups, credit=credit, update=update, reward_metrics=dict(parts.grader.metrics))


def step_seeds(seed: int, step: int, num_prompts: int) -> list[int]:
    """One number per prompt of a step, from the run's seed alone."""
    states = np.random.SeedSequence([seed, step]).generate_state(num_prompts, np.uint64)
    return [int(state) for state in states]


def step_problems(train: Sequence[Problem], seed: int, step: int, num_prompts: int) -> list[Problem]:
    """The problems of step `step` (from 1): the training set in an order of its own in every epoch."""
    first = (step - 1) * num_prompts
    return [_problem_at(train, seed, place) for place in range(first, first + num_prompts)]


def _problem_at(train: Sequence[Problem], seed: int, place: int) -> Problem:
    epoch, index = divmod(place, len(train))
    if epoch == 0:
        return train[index]
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(len(train))
    return train[int(order[index])]
