"""The countdown task: its problems can be solved, its held-out ones are its own, and answers are never run."""

from __future__ import annotations

from fractions import Fraction

import pytest

from groat.config.tree import TaskConfig
from groat.tasks import build_task
from groat.tasks.countdown import (
    LARGEST_OPERAND,
    LARGEST_TARGET,
    WORKED_EXAMPLES,
    CountdownStream,
    countdown_answer,
    countdown_numbers,
    held_out_countdown,
)
from groat.tasks.safe_arithmetic import Evaluated, NoExpressionError, evaluated


@pytest.mark.parametrize(
    ("expression", "value", "numbers"),
    [
        ("(8 - 3) * 4 / 2", 10, (8, 3, 4, 2)),
        ("1/3 + 1/6", Fraction(1, 2), (1, 3, 1, 6)),
        ("-3 + +5", 2, (3, 5)),
        ("2 \u00d7 3 \u00f7 4 \u2212 1", Fraction(1, 2), (2, 3, 4, 1)),
        ("((((7))))", 7, (7,)),
    ],
)
def test_arithmetic_is_exact(expression: str, value: Fraction, numbers: tuple[int, ...]):
    assert evaluated(expression) == Evaluated(Fraction(value), numbers)


@pytest.mark.parametrize(
    "expression",
    [
        "", "1 +", "2 ** 3", "9**9**9**9", "2 // 3", "5 % 3", "1.5 + 1", "True + 1", "x", "abs(3)", "1 < 2", "[1][0]",
        "1 if 1 else 2",
        "__import__('os').system('x')", "(lambda: 1)()", "'a'", "1j", "~1", "1 / 0", "1 / (2 - 2)", "1 and 2", "x := 3",
        "99999999999", "1" * 201, "(" * 99 + "1" + ")" * 99 + "0", "1\x00", "\ud800", "-" * 200,
    ],
)  # fmt: skip
def test_anything_else_is_refused(expression: str):
    with pytest.raises(NoExpressionError):
        evaluated(expression)


@pytest.mark.parametrize(
    ("text", "answer", "numbers"),
    [
        ("3 + 2 = 5\nAnswer: (3 + 2) * 4", 1.0, 1.0),
        ("Answer: 4 * (2 + 3) = 20", 1.0, 1.0),
        (r"\boxed{4 * (2 + 3)}", 1.0, 1.0),
        ("<think>4 + 4</think><answer>(3+2)*4</answer>", 1.0, 1.0),
        ("let me see\n(3 + 2) * 4", 1.0, 1.0),
        ("Answer: 3 * 2 * 4", 0.0, 1.0),
        ("Answer: 3 * 4 + 2 * 4", 0.0, 0.0),
        ("Answer: 20", 0.0, 0.0),
        ("Answer: 5 * 4", 0.0, 0.0),
        ("Answer: 3 ** 2 + 4", 0.0, 0.0),
        ("Answer: 324 / 1", 0.0, 0.0),
        ("Answer: (3 + 2) * 4 or 5", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_an_answer_uses_every_number_once_and_reaches_the_target(text: str, answer: float, numbers: float):
    assert countdown_answer([text], nums=[[2, 3, 4]], target=[20]) == [answer]
    assert countdown_numbers([text], nums=[[2, 3, 4]]) == [numbers]


def test_the_reason_says_what_is_wrong():
    texts = ["Answer: 2 * 3 * 4", "Answer: 2 * 3", "Answer: what"]
    values = countdown_answer(texts, nums=[[2, 3, 4]] * 3, target=[20] * 3)
    assert [value.why for value in values] == [
        "is 24, not 20",
        "uses [2, 3], not [2, 3, 4]",
        "what is neither a whole number nor one of + - * /",
    ]


def test_every_problem_can_be_solved_as_its_answer_says():
    problems = [*CountdownStream(0, (2, 3, 4, 5))[:300], *held_out_countdown((3, 4))]
    columns = [problem.columns for problem in problems]
    values = countdown_answer(
        [f"Answer: {row['answer']}" for row in columns],
        nums=[row["nums"] for row in columns],
        target=[row["target"] for row in columns],
    )
    assert values == [1.0] * 500
    assert all(1 <= row["target"] <= LARGEST_TARGET and max(row["nums"]) <= LARGEST_OPERAND for row in columns)


def test_held_out_problems_are_never_trained_on():
    def keys(problems):
        return {(*sorted(problem.columns["nums"]), problem.columns["target"]) for problem in problems}

    held_out = keys(held_out_countdown((3,)))
    assert not held_out & keys(CountdownStream(1, (3,))[:5000])
    assert not held_out & {(*sorted(nums), target) for nums, target, _ in WORKED_EXAMPLES}
    assert held_out_countdown((3, 4)) == held_out_countdown((3, 4))


def test_worked_examples_are_right():
    for nums, target, solution in WORKED_EXAMPLES:
        assert countdown_answer([solution], nums=[nums], target=[target]) == [1.0]


def test_the_task_is_built_from_a_recipe():
    task = build_task(TaskConfig(name="countdown", num_operands=(3,), num_examples=1), seed=3)
    assert [len(problem.columns["nums"]) for problem in task.train[:5]] == [3] * 5
    assert [turn["role"] for turn in task.train[0].prompt] == ["user", "assistant", "user"]
    assert task.train[7] == CountdownStream(3, (3,), task.train[0].prompt[:2])[7]
    problem = task.held_out[0]
    assert task.is_correct(problem, f"Answer: {problem.columns['answer']}")
    assert not task.is_correct(problem, "Answer: 1")
