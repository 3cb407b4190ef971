"""One training step, from problems to a new adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from groat.algorithms.base import Algorithm, Credit
from groat.algorithms.credit import length_metrics, reward_metrics
from groat.learning.learner import Learner, Update
from groat.model.lora import Adapter
from groat.sampling.base import Sampler, SamplingParams
from groat.tasks.rewards import Grader
from groat.training.dialogues import dialogue_metrics
from groat.training.phases import Phases
from groat.training.rollouts import Rollouts, most_telling, refilled
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
    max_refills: int = 0
    """Rounds in which groups without contrast are drawn anew."""
    num_kept: int | None = None
    """Completions of a group that are learned from; None: all."""


Spares = Callable[[int, int], tuple[list[Problem], list[int]]]
"""Problems and seeds for a round of refilling: given its number (from 1) and how many."""


def no_spares(round_: int, num_prompts: int) -> tuple[list[Problem], list[int]]:
    """Nothing to refill with."""
    del round_, num_prompts
    return [], []


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What the run loop records, and the adapter for the next step."""

    groups: Sequence[Group]
    """Everything that was drawn, whether or not it was learned from."""
    credit: Credit
    update: Update
    metrics: Mapping[str, float]
    """About all groups that were drawn."""


def train_step(
    parts: Parts,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    adapter: Adapter,
    phases: Phases,
    spares: Spares = no_spares,
) -> StepResult:
    """Sample, reward, give credit, update. `seeds` has one number per problem."""

    def draw_spares(round_: int, num_prompts: int) -> list[Group]:
        return _draw(parts, *spares(round_, num_prompts), adapter, phases)

    groups = _draw(parts, problems, seeds, adapter, phases)
    logged = dict(parts.grader.metrics)
    rollouts = refilled(groups, draw_spares, parts.max_refills)
    groups = [group if parts.num_kept is None else most_telling(group, parts.num_kept) for group in rollouts.kept]
    with phases.phase("score", unit="tokens") as done:
        groups = parts.learner.score(groups, parts.algorithm.needs, done)
    credit = parts.algorithm.assign_credit(groups)
    with phases.phase("learn", unit="tokens") as done:
        update = parts.learner.update(credit, parts.algorithm, done)
    metrics = {**credit.metrics, **_metrics_of_all(rollouts, parts), **dialogue_metrics(rollouts.drawn), **logged}
    return StepResult(groups=rollouts.drawn, credit=credit, update=update, metrics=metrics)


def _draw(
    parts: Parts, problems: Sequence[Problem], seeds: Sequence[int], adapter: Adapter, phases: Phases
) -> list[Group]:
    prompts = parts.encode(problems)
    total = len(prompts) * parts.sampling.num_generations * parts.sampling.max_completion_length
    with phases.phase("sample", total, "tokens settled") as done, parts.sampler.awake():
        groups = parts.sampler.sample(prompts, adapter, parts.sampling, seeds, done)
    with phases.phase("reward"):
        return parts.grader.grade(groups)


def _metrics_of_all(rollouts: Rollouts, parts: Parts) -> dict[str, float]:
    """Of what was drawn, where that is more than what is learned from: a choice must not flatter the rewards."""
    refills = {"refill_rounds": float(rollouts.rounds)} if parts.max_refills else {}
    if rollouts.drawn == rollouts.kept and parts.num_kept is None:
        return refills
    return reward_metrics(rollouts.drawn) | length_metrics(rollouts.drawn) | refills


def step_seeds(seed: int, step: int, num_prompts: int) -> list[int]:
    """One number per prompt of a step, from the run's seed alone."""
    states = np.random.SeedSequence([seed, step]).generate_state(num_prompts, np.uint64)
    return [int(state) for state in states]


def step_spares(
    train: Sequence[Problem], seed: int, step: int, round_: int, num_prompts: int
) -> tuple[list[Problem], list[int]]:
    """For a round of refilling (from 1): problems picked at random, with their seeds; by run seed and step alone."""
    states = np.random.SeedSequence([seed, step, round_])
    places = np.random.Generator(np.random.Philox(states)).integers(len(train), size=num_prompts)
    seeds = states.generate_state(num_prompts, np.uint64)
    return [train[int(place)] for place in places], [int(one) for one in seeds]


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
