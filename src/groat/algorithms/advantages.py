"""From the rewards of a step to one advantage per completion: group by group, in the groups' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from groat.algorithms.credit import standard_deviation
from groat.types import Group

SMALLEST_DIVISOR = 1e-4
"""Added to a standard deviation before it divides, as in TRL."""


def centred(values: Sequence[float]) -> list[float]:
    """Without their mean; exactly 0 where all are equal, however rounding goes."""
    if max(values) == min(values):
        return [0.0] * len(values)
    return (np.array(values) - np.mean(values)).tolist()


def group_relative(groups: Sequence[Group], scale: Literal["group", "batch", "none"]) -> list[list[float]]:
    """Each total less the mean of its group, over the standard deviation of the group or of the step, if asked for."""
    totals = [_totals(group) for group in groups]
    step_std = standard_deviation([value for values in totals for value in values])

    def scaled(values: Sequence[float]) -> list[float]:
        divisor = {"group": standard_deviation(values), "batch": step_std}.get(scale)
        return centred(values) if divisor is None else _over(centred(values), divisor)

    return [scaled(values) for values in totals]


def normalized_then_summed(groups: Sequence[Group], weights: Mapping[str, float]) -> list[list[float]]:
    """Every reward function by itself: normalized in its group, weighted, added up; then scaled by the step.

    GDPO (arXiv:2601.05242): rewards of different sizes, or of which one seldom differs, keep their say. What a function
    did not apply to takes no part in its mean and deviation, and gets nothing from it. A function that `weights` does
    not name weighs 1.
    """
    sums = [_sums_of_normalized(group, weights) for group in groups]
    step_std = standard_deviation([value for values in sums for value in values])
    return [_over(values, step_std) for values in sums]


def leave_one_out(returns: Sequence[float]) -> list[float]:
    """Each return less the mean of the others: RLOO (arXiv:2402.14740, equation 8)."""
    others = len(returns) - 1
    return [value * (others + 1) / others for value in centred(returns)]


def generalized_advantages(rewards_L: np.ndarray, values_L: np.ndarray, *, gamma: float, lam: float) -> np.ndarray:
    """How much more came of each token of a completion than its value foresaw (arXiv:1506.02438, equation 16).

    `values_L` are of the states before the tokens; nothing comes after the last one.
    """
    surprises_L = rewards_L + gamma * np.append(values_L[1:], 0.0) - values_L
    advantages_L = np.empty_like(surprises_L)
    later = 0.0
    for place in reversed(range(len(surprises_L))):
        later = advantages_L[place] = surprises_L[place] + gamma * lam * later
    return advantages_L


def whitened(parts: Sequence[np.ndarray], *, keep_mean: bool = False) -> list[np.ndarray]:
    """All numbers together, with a standard deviation (over n - 1) of 1, and a mean of 0 unless it is to be kept.
    Without it, equal numbers become exactly 0."""
    values_N = np.concatenate(parts)
    mean = float(np.mean(values_N)) if keep_mean else 0.0
    scaled_N = np.array(centred(values_N.tolist())) / np.sqrt(standard_deviation(values_N.tolist()) ** 2 + 1e-8)
    return np.split(scaled_N + mean, np.cumsum([len(part) for part in parts])[:-1])


def _totals(group: Group) -> list[float]:
    return [reward.total for reward in group.rewards]


def _sums_of_normalized(group: Group, weights: Mapping[str, float]) -> list[float]:
    sums = [0.0] * len(group.rewards)
    for name in group.rewards[0].parts:
        given = {place: part for place, reward in enumerate(group.rewards) if (part := reward.parts[name]) is not None}
        if not given:
            continue
        values = list(given.values())
        for place, value in zip(given, _over(centred(values), standard_deviation(values)), strict=True):
            sums[place] += weights.get(name, 1.0) * value
    return sums


def _over(values: Sequence[float], deviation: float) -> list[float]:
    return [value / (deviation + SMALLEST_DIVISOR) for value in values]
