"""A curriculum: problems that are sometimes solved come up most often, and those always or never solved least.

An answer to a problem teaches through the contrast with the others, whose variance is p (1 - p) where a share p of them
is right. Nothing of this is kept anywhere but in the run's store: the rates are counted again from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from groat.tracking.rows import RolloutRow
from groat.types import Problem

_MEMORY = 0.5
"""What an earlier visit of a problem counts, beside the latest: the policy has changed since."""
_LEAST_WEIGHT = 0.02
"""Of 0.25 at most: nothing is given up for good."""


class Curriculum:
    """Running solve rates by problem id, from what steps have drawn."""

    def __init__(self, train: Sequence[Problem], seed: int) -> None:
        self._train = train
        self._seed = seed
        self._solved: dict[str, float] = {}
        self._tried: dict[str, float] = {}

    def learn(self, rows: Iterable[RolloutRow]) -> None:
        """Take in a step. An answer solves its problem where the first reward function gives 1 or more."""
        by_problem: dict[str, list[bool]] = {}
        for row in rows:
            by_problem.setdefault(row.problem_id, []).append((next(iter(row.parts.values())) or 0.0) >= 1)
        for name, solved in by_problem.items():
            self._solved[name] = _MEMORY * self._solved.get(name, 0.0) + sum(solved)
            self._tried[name] = _MEMORY * self._tried.get(name, 0.0) + len(solved)

    def solve_rate(self, problem: Problem) -> float:
        """As if every problem had been solved once in two tries before the first."""
        return (self._solved.get(problem.id, 0.0) + 1) / (self._tried.get(problem.id, 0.0) + 2)

    def problems(self, step: int, num_prompts: int) -> list[Problem]:
        """The problems of a step, decided by the run's seed, the step and the rates; no problem comes twice while there
        are enough."""
        rates_P = np.array([self.solve_rate(problem) for problem in self._train])
        weights_P = np.maximum(rates_P * (1 - rates_P), _LEAST_WEIGHT)
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([self._seed, step], spawn_key=(1,))))
        chosen: list[int] = []
        while len(chosen) < num_prompts:
            size = min(num_prompts - len(chosen), len(self._train))
            places = generator.choice(len(self._train), size=size, replace=False, p=weights_P / weights_P.sum())
            chosen.extend(int(place) for place in places)
        return [self._train[place] for place in chosen]
