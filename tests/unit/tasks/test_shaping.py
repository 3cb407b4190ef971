"""Length and repetition, against the formulas worked out by hand."""

from __future__ import annotations

import pytest

from groat.tasks.shaping import length_near, repetition, soft_overlong
from groat.types import UserError


@pytest.mark.parametrize(
    ("length", "reward"),
    [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (101, -1.0), (500, -1.0)],
)
def test_soft_overlong_is_equation_13_of_dapo(length: int, reward: float):
    # L_max 100, L_cache 20: ((100 - 20) - length) / 20 between 80 and 100
    assert soft_overlong(max_length=100, cache=20)(["x"], completion_ids=[(1,) * length]) == [pytest.approx(reward)]


def test_length_near_falls_in_a_straight_line():
    reward = length_near(target=10, tolerance=2, unit="words")
    texts = ["w " * number for number in (10, 12, 8, 17, 22, 23, 0)]
    # (distance - 2) / 10 off: 0, 0, 0, 5, 10, 11, 8
    assert reward(texts, completion_ids=[()] * 7) == [1.0, 1.0, 1.0, pytest.approx(0.5), 0.0, 0.0, pytest.approx(0.2)]


def test_lengths_are_counted_in_tokens_or_characters():
    given = {"completions": ["abcd"], "completion_ids": [(1, 2)]}
    assert length_near(target=2)(**given) == [1.0]
    assert length_near(target=4, unit="characters")(**given) == [1.0]


@pytest.mark.parametrize(
    ("text", "reward"),
    [("a b c d e", 0.0), ("a b c a b c", -0.25), ("a A a a a", -2 / 3), ("a b", 0.0), ("", 0.0)],
)
def test_repetition_is_the_share_of_runs_that_came_before(text: str, reward: float):
    # "a b c a b c" has runs abc, bca, cab, abc: one of four. "a a a a a" has three equal ones: two of three.
    assert repetition(ngram=3)([text]) == [pytest.approx(reward)]
    assert repetition(ngram=3, worst=-2.0)([text]) == [pytest.approx(2 * reward)]


def test_options_are_checked():
    for wrong in (
        lambda: soft_overlong(max_length=10, cache=0),
        lambda: soft_overlong(max_length=10, cache=11),
        lambda: length_near(target=0),
        lambda: length_near(target=5, unit="lines"),
        lambda: repetition(ngram=0),
        lambda: repetition(worst=1.0),
    ):
        with pytest.raises(UserError):
            wrong()
