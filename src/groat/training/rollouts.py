"""Which answers a step learns from: groups without contrast drawn anew, and of each group the most telling ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from groat.algorithms.credit import has_contrast
from groat.types import Group

Draw = Callable[[int, int], list[Group]]
"""Draws and grades groups of other problems, given the number of the round (from 1) and how many groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """What a step has drawn, and what of it is learned from."""

    drawn: tuple[Group, ...]
    """Every group, in the order of drawing."""
    kept: tuple[Group, ...]
    """As many groups as the step has prompts."""
    rounds: int = 0
    """How often groups were drawn anew."""


def refilled(groups: Sequence[Group], draw: Draw, max_rounds: int) -> Rollouts:
    """Groups whose rewards are all equal give their places to others, as long as rounds are left.

    Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2). What is without contrast after the last round stays: it
    teaches nothing and counts in the denominators, as without refilling.
    """
    drawn, kept, rounds = list(groups), list(groups), 0
    while rounds < max_rounds and (places := [place for place, group in enumerate(kept) if not has_contrast(group)]):
        rounds += 1
        fresh = draw(rounds, len(places))
        drawn.extend(fresh)
        for place, group in zip(places, filter(has_contrast, fresh), strict=False):
            kept[place] = group
    return Rollouts(drawn=tuple(drawn), kept=tuple(kept), rounds=rounds)


def most_telling(group: Group, num_kept: int) -> Group:
    """The `num_kept` completions whose rewards have the largest variance, in their order.

    Max-variance down-sampling (PODS, arXiv:2504.13818): they are some of the best and some of the worst.
    """
    totals_G = np.array([reward.total for reward in group.rewards])
    order_G = np.argsort(totals_G, kind="stable")

    def ends(num_worst: int) -> list[int]:
        num_best = num_kept - num_worst
        return [*order_G[:num_worst].tolist(), *order_G[len(order_G) - num_best :].tolist()]

    chosen = sorted(max(map(ends, range(num_kept + 1)), key=lambda places: float(np.var(totals_G[places]))))
    return replace(
        group,
        completions=tuple(group.completions[place] for place in chosen),
        rewards=tuple(group.rewards[place] for place in chosen),
    )
