"""Judges that compare answers, and the penalty for length."""

from __future__ import annotations

from typing import Any

import pytest

from groat.tasks.judges import judged
from groat.tasks.overlong import soft_overlong
from groat.types import UserError


def longer(prompts: list[str], completions: list[list[str]]) -> list[int]:
    """The longer answer is the better one; equal lengths: neither."""
    assert len(prompts) == len(completions)
    return [-1 if len(a) == len(b) else int(len(b) > len(a)) for a, b in completions]


def test_an_answers_reward_is_its_share_of_won_comparisons() -> None:
    """Of three answers the longest wins both of its two; the other two are equally long: half a point each."""
    rate = judged(longer).function
    assert rate(prompts=["p"] * 3, completions=["aa", "b", "c"]) == [1.0, 0.25, 0.25]
    assert rate(prompts=["p", "p"], completions=["a", "bb"]) == [0.0, 1.0]


def test_answers_are_compared_within_their_prompt_in_one_call() -> None:
    seen: list[Any] = []

    class Judge:
        def judge(self, prompts: list[str], completions: list[list[str]]) -> list[int]:
            seen.append((prompts, completions))
            return [0] * len(prompts)

    rewards = judged(Judge()).function(prompts=["p", "p", "q", "q"], completions=["a", "b", "c", "d"])
    assert rewards == [1, 0, 1, 0]
    assert seen == [(["p", "q"], [["a", "b"], ["c", "d"]])]


@pytest.mark.parametrize("ranks", [[], [0, 1], [2], [True], [None], ["0"], [0.5]])
def test_a_judge_that_answers_something_else_is_an_error(ranks: list[Any]) -> None:
    with pytest.raises(UserError, match=r"the judge must return 0, 1 or -1 \(neither\) for each of 1 pairs"):
        judged(lambda prompts, completions: ranks).function(prompts=["p", "p"], completions=["a", "b"])


def test_an_answer_alone_wins_nothing() -> None:
    assert judged(longer).function(prompts=["p"], completions=["a"]) == [0.0]


def test_overlong_penalty_by_hand() -> None:
    """Of at most 10 tokens, 4 are the buffer: none up to 6, a quarter more for each token behind."""
    penalty = soft_overlong(10, 4)
    assert penalty.name == "soft_overlong"
    ids = [[0] * length for length in (0, 6, 7, 8, 10)]
    assert penalty.function(["x"] * len(ids), completion_ids=ids) == [0, 0, -0.25, -0.5, -1]
