"""Judges compare answers two at a time; how often an answer wins is its reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, groupby
from typing import Any

from groat.tasks.rewards import RewardFunction
from groat.types import UserError

Judge = Callable[..., Any]
"""Called with a list of prompts and a list of pairs of completions; returns for each pair the place of the better
one, 0 or 1, or -1 where it cannot tell. Prompts and completions are as reward functions get them. It may also be an
object with a method `judge` of that kind, as TRL's are."""

_WON = {0: (1.0, 0.0), 1: (0.0, 1.0), -1: (0.5, 0.5)}


def judged(judge: Judge) -> RewardFunction:
    """Each answer's share of the comparisons with all other answers to the same prompt that it won; all are asked for
    in one call."""
    compare = getattr(judge, "judge", judge)

    def win_rate(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        pairs = [pair for places in _same_prompts(prompts) for pair in combinations(places, 2)]
        ranks = compare([prompts[first] for first, _ in pairs], [[completions[a], completions[b]] for a, b in pairs])
        won, played = [0.0] * len(prompts), [0] * len(prompts)
        for pair, rank in zip(pairs, _checked(ranks, len(pairs)), strict=True):
            for place, points in zip(pair, _WON[rank], strict=True):
                won[place] += points
                played[place] += 1
        return [points / max(1, games) for points, games in zip(won, played, strict=True)]

    return RewardFunction(name="win_rate", function=win_rate)


def _same_prompts(prompts: Sequence[Any]) -> list[list[int]]:
    """Places of equal prompts that lie side by side."""
    return [list(places) for _, places in groupby(range(len(prompts)), key=prompts.__getitem__)]


def _checked(ranks: Any, num_pairs: int) -> list[int]:
    given = list(ranks)
    if len(given) != num_pairs or any(isinstance(rank, bool) or rank not in _WON for rank in given):
        raise UserError(
            f"the judge must return 0, 1 or -1 (neither) for each of {num_pairs} pairs of answers, got "
            f"{len(given)} values, such as {given[:5]}"
        )
    return [int(rank) for rank in given]
