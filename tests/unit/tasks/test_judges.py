"""Judges that compare answers, and the penalty for length."""

from __future__ import annotations

from typing import Any

import pytest

from groat.tasks.judges import judged, shares_won
from groat.tasks.overlong import soft_overlong
from groat.types import Problem, UserError


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


# Against other answers


def problems(number: int, chat: bool = False) -> list[Problem]:
    prompt = ({"role": "user", "content": "?"},) if chat else "?"
    return [Problem(id=str(place), prompt=prompt) for place in range(number)]


def test_the_longer_of_two_answers_wins_both_comparisons_and_equal_ones_share() -> None:
    texts, others = ["aaa", "b", "cc", "d"], ["aa", "bb", "dd", "d"]
    assert shares_won(longer, problems(4), texts, others, 5) == [1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("place", [0, 1])
def test_a_judge_that_always_prefers_a_place_tells_nothing_about_an_answer(place: int) -> None:
    assert shares_won(lambda prompts, completions: [place] * len(prompts), problems(1), ["a"], ["b"], 5) == [0.5]


def test_only_answers_that_differ_are_asked_about_in_one_call_and_in_the_form_of_the_prompt() -> None:
    seen: list[Any] = []

    def judge(prompts: list[Any], completions: list[Any]) -> list[int]:
        seen.append((prompts, completions))
        return [0] * len(prompts)

    assert shares_won(judge, problems(2, chat=True), ["same", "new"], ["same", "old"], 5) == [0.5, 0.5]
    asked = [{"role": "user", "content": "?"}]
    new, old = ([{"role": "assistant", "content": text}] for text in ("new", "old"))
    assert seen == [([asked, asked], [[new, old], [old, new]])]
    assert shares_won(judge, problems(1), ["a"], ["a"], 5) == [0.5]
    assert len(seen) == 1


def test_a_judge_that_fails_while_evaluating_is_an_error_with_its_name() -> None:
    with pytest.raises(UserError, match="win_rate raised ZeroDivisionError"):
        shares_won(lambda prompts, completions: 1 / 0, problems(1), ["a"], ["b"], 5)
