"""Mathematics is compared by value, in processes of their own; 500 abusive answers cost their time limit at most."""

from __future__ import annotations

from pathlib import Path

import pytest
from abusive_answers import MARK, abusive_answers
from reward_examples import a_group

from groat.tasks import Grader, RewardFunction
from groat.tasks.answers import exact_answer, numeric_answer
from groat.tasks.math_answers import math_answer
from groat.tasks.math_screen import refusal

pytest.importorskip("math_verify")


@pytest.fixture(scope="module")
def reward():
    reward = math_answer(num_workers=1, timeout_seconds=20)
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        (r"so it is \boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{\dfrac{2}{4}}", r"\frac12", 1.0),
        (r"\boxed{x^2 + 2x + 1}", "(x+1)^2", 1.0),
        (r"\boxed{x^2 + 2x}", "(x+1)^2", 0.0),
        (r"\boxed{2\sqrt{2}}", r"\sqrt{8}", 1.0),
        (r"\boxed{\{3, 1, 2\}}", r"\{1, 2, 3\}", 1.0),
        (r"\boxed{(1, 2)}", "(1, 2)", 1.0),
        (r"\boxed{(2, 1)}", "(1, 2)", 0.0),
        (r"\boxed{1,234}", "1234", 1.0),
        ("Answer: 1,234", "1,234", 1.0),
        ("The answer is $3.0$.", "3", 1.0),
        (r"\boxed{1} and \boxed{2}", r"\{1, 2\}", 1.0),
        (r"First \boxed{1}. No, it is \boxed{2}", "2", 1.0),
        ("I cannot say", "2", 0.0),
        ("", "2", 0.0),
    ],
)
def test_equal_values_are_right_whatever_the_notation(reward, text: str, answer: str, score: float):
    assert reward([text], answer=[answer]) == [score]


def test_the_reason_shows_both_sides(reward):
    [right, wrong] = reward([r"\boxed{\frac{2}{4}}", r"\boxed{3}"], answer=["0.5", "0.5"])
    assert right.why == r"\frac{2}{4} equals 0.5"
    assert wrong.why == "3 does not equal 0.5"


def test_rows_without_an_answer_do_not_apply(reward):
    assert reward([r"\boxed{1}"], answer=[None]) == [None]


def test_an_answer_that_is_the_row_s_letter_by_letter_needs_no_algebra(reward):
    tower = "9^{9^{9^{9}}}"
    [same, other] = reward([rf"\boxed{{{tower}}}", rf"\boxed{{{tower}}}"], answer=[tower, "5"])
    assert same == 1.0
    assert (other, other.why) == (0.0, "not read: a tower of powers")


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("9" * 400, "a number of 400 digits or more"),
        ("9" * 399, None),
        ("10^{100000}", "too large an exponent"),
        ("1e10000", "too large an exponent"),
        ("10^{99999}", None),
        ("2^{2^{2}}", None),
        ("2**2**2**2", "a tower of powers"),
        ("(99999!)", "a factorial too large"),
        ("5!!", "a factorial too large"),
        ("999!", None),
        ("(" * 16, "nested deeper than 15"),
        ("()" * 16, None),
        ("x" * 2001, "longer than 2000 characters"),
        ("x^2+" * 41, "more than 40 powers"),
        ("__import__('os')", "code, not mathematics"),
        (r"\text{the lambda of } x", "code, not mathematics"),
    ],
)
def test_what_no_algebra_system_should_be_asked_is_turned_away(expression: str, why: str | None):
    assert refusal(expression) == why


def test_a_comparison_that_takes_too_long_is_given_up_and_counted():
    reward = math_answer(timeout_seconds=0.001, num_workers=1)
    grader = Grader([RewardFunction(name="math_answer", function=reward)])
    [group] = grader.grade([a_group(r"\boxed{x + 1}", r"\boxed{y}", answer="x")])
    grader.close()
    assert [reward.total for reward in group.rewards] == [0.0, 0.0]
    assert {reward.reasons["math_answer"] for reward in group.rewards} == {"not decided within 0.001 s"}
    assert grader.metrics == {"math_answer/undecided": 1.0}


@pytest.mark.slow
def test_500_abusive_answers_are_judged_and_nothing_runs(tmp_path: Path):
    texts = abusive_answers(500, seed=5, folder=str(tmp_path))
    reward = math_answer(timeout_seconds=1.0, num_workers=2)
    values = reward(texts, answer=["1"] * 500, log_metric=lambda *_: None)
    reward.close()
    for rule in (numeric_answer(), exact_answer(), numeric_answer(units=True)):
        assert len(rule(texts, answer=["1"] * 500)) == 500
    assert len(values) == 500
    assert all(value in (0.0, 1.0) and value.why for value in values)
    code = [value for text, value in zip(texts, values, strict=True) if MARK in text]
    assert len(code) == 100
    assert set(code) == {0.0}
    assert not list(tmp_path.iterdir())
