"""Exact and numeric answers: what counts, what does not, and what the rollout is told."""

from __future__ import annotations

import pytest
from reward_examples import a_group

from groat.tasks import Grader, RewardError, RewardFunction
from groat.tasks.answers import exact_answer, numeric_answer
from groat.types import UserError


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Answer: 1,200", 1.0),
        (r"\boxed{1200}", 1.0),
        ("so it is 1200 in all", 1.0),
        ("first 5 then 1200.00", 1.0),
        ("Answer: 1200 apples", 0.0),
        (r"\boxed{120000^{0}}", 0.0),
        ("1200 then 5", 0.0),
        ("Answer: 1201", 0.0),
        ("", 0.0),
    ],
)
def test_numeric_answers_are_compared_by_value(text: str, score: float):
    assert numeric_answer()([text], answer=["5 * 240 = 1200\n#### 1,200"]) == [score]


def test_units_and_tolerance_are_options():
    assert numeric_answer(units=True)(["Answer: 12 apples"], answer=["12"]) == [1.0]
    assert numeric_answer(tolerance=0.01)(["Answer: 3.14"], answer=["3.14159"]) == [1.0]
    assert numeric_answer()(["Answer: 3.14"], answer=["3.14159"]) == [0.0]


def test_rows_without_an_answer_do_not_apply():
    assert numeric_answer()(["5", "5"], answer=["5", None]) == [1.0, None]


def test_a_reference_that_is_no_number_ends_the_run():
    grader = Grader([RewardFunction(name="numeric_answer", function=numeric_answer())])
    with pytest.raises(RewardError, match="the row's answer 'Paris' is no number"):
        grader.grade([a_group("5", answer="Paris")])


def test_exact_answers_ignore_blanks_and_dollars_and_case_if_asked():
    assert exact_answer()(
        [r"\boxed{New  York}", "Answer: $x$", "answer is new york"], answer=["New York", "x", "New York"]
    ) == [
        1.0,
        1.0,
        0.0,
    ]
    assert exact_answer(ignore_case=True)(["answer is new york"], answer=["New York"]) == [1.0]


def test_other_columns_can_hold_the_answer():
    assert exact_answer(column="solution")(["Answer: A"], solution=["A"]) == [1.0]


def test_each_rollout_says_why():
    grader = Grader([RewardFunction(name="numeric_answer", function=numeric_answer())])
    [group] = grader.grade([a_group("Answer: 4", "Answer: 5", "?", answer="4")])
    assert [reward.reasons["numeric_answer"] for reward in group.rewards] == [
        "4 is right",
        "5 is not 4",
        "no number found (auto)",
    ]
    assert [reward.parts for reward in group.rewards] == [
        {"numeric_answer": 1.0},
        {"numeric_answer": 0.0},
        {"numeric_answer": 0.0},
    ]
    assert all(type(reward.parts["numeric_answer"]) is float for reward in group.rewards)


def test_options_are_checked():
    with pytest.raises(UserError, match="extract is 'box'"):
        exact_answer(extract="box")
    with pytest.raises(UserError, match="tolerance"):
        numeric_answer(tolerance=2)
