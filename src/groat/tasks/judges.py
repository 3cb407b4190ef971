"""Judges compare answers two at a time; how often an answer wins is its reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, groupby
from typing import Any

from groat.tasks.reward_arguments import Answers
from groat.tasks.rewards import Grader, RewardFunction
from groat.types import Problem, UserError

Judge = Callable[..., Any]
"""Called with a list of prompts and a list of pairs of completions; returns for each pair the place of the better
one, 0 or 1, or -1 where it cannot tell. Prompts and completions are as reward functions get them. It may also be an
object with a method `judge` of that kind, as TRL's are."""

WIN_RATE = "win_rate"
_OTHER = "groat_other_answer"
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

    return RewardFunction(name=WIN_RATE, function=win_rate)


def shares_won(
    judge: Judge, problems: Sequence[Problem], texts: Sequence[str], others: Sequence[str], timeout_seconds: float
) -> list[float]:
    """For each text, its share of two comparisons with the other text for the same problem, which is asked about in
    both orders: judges prefer a place. Equal texts share without being asked about."""
    differing = [place for place, pair in enumerate(zip(texts, others, strict=True)) if pair[0] != pair[1]]
    grader = Grader([_won_against_other(judge)], timeout_seconds)
    answers = Answers(
        problems=[_with_column(problems[place], _OTHER, others[place]) for place in differing],
        texts=[texts[place] for place in differing],
        token_ids=[() for _ in differing],
        turns=[() for _ in differing],
    )
    try:
        won = dict(zip(differing, grader.values(answers)[WIN_RATE], strict=True))
    finally:
        grader.close()
    return [won.get(place) or 0.0 if place in won else 0.5 for place in range(len(texts))]


def _won_against_other(judge: Judge) -> RewardFunction:
    compare = getattr(judge, "judge", judge)

    def share(
        prompts: Sequence[Any], completions: Sequence[Any], groat_other_answer: Sequence[str], **_: Any
    ) -> list[float]:
        others = [_in_the_form_of(*pair) for pair in zip(completions, groat_other_answer, strict=True)]
        first = [list(pair) for pair in zip(completions, others, strict=True)]
        second = [list(pair) for pair in zip(others, completions, strict=True)]
        ranks = _checked(compare([*prompts, *prompts], [*first, *second]), 2 * len(completions))
        ahead, behind = ranks[: len(completions)], ranks[len(completions) :]
        return [(_WON[one][0] + _WON[other][1]) / 2 for one, other in zip(ahead, behind, strict=True)]

    return RewardFunction(name=WIN_RATE, function=share)


def _in_the_form_of(completion: Any, text: str) -> Any:
    """As text, or as the assistant's turn."""
    return text if isinstance(completion, str) else [{"role": "assistant", "content": text}]


def _with_column(problem: Problem, name: str, value: Any) -> Problem:
    return replace(problem, columns={**problem.columns, name: value})


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
