"""One finite number or None per completion becomes a reward; anything else is a named error."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from reward_examples import a_grader, a_group, returning

from groat.tasks import Grader, RewardError, RewardFunction


def test_total_is_the_weighted_sum_of_what_applies():
    functions = [
        RewardFunction(name="right", function=returning([1.0, 0.0, None]), weight=2.0),
        RewardFunction(name="short", function=returning([0.5, None, -1]), weight=0.1),
    ]
    [group] = Grader(functions).grade([a_group("a", "b", "c")])
    # 2 * 1 + 0.1 * 0.5, 2 * 0, 0.1 * -1
    assert [reward.total for reward in group.rewards] == pytest.approx([2.05, 0.0, -0.1])
    assert group.rewards[1].parts == {"right": 0.0, "short": None}


def test_rewards_go_back_to_the_groups_they_belong_to():
    groups = a_grader(lambda_length := (lambda completions: [float(len(text)) for text in completions])).grade(
        [a_group("a", "bb"), a_group("ccc"), a_group("dddd", "eeeee")]
    )
    assert lambda_length.__name__ == "<lambda>"
    assert [[reward.total for reward in group.rewards] for group in groups] == [[1.0, 2.0], [3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2.0),
        (np.array(3.0), 3.0),
        (torch.tensor(0.25), 0.25),
        (Decimal("1.5"), 1.5),
    ],
)
def test_numbers_of_any_kind_are_taken(value: Any, number: float):
    [group] = a_grader(returning([value])).grade([a_group("a")])
    assert group.rewards[0].total == number
    assert type(group.rewards[0].total) is float


def test_a_tuple_is_as_good_as_a_list():
    [group] = a_grader(returning((1.0, 2.0))).grade([a_group("a", "b")])
    assert [reward.total for reward in group.rewards] == [1.0, 2.0]


def test_no_completions_call_no_function():
    assert a_grader(returning("not looked at")).grade([]) == []


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"returned None \(NoneType\); it must return a list"),
        (1.0, r"returned 1.0 \(float\); it must return a list"),
        ("ab", r"returned 'ab' \(str\); it must return a list"),
        ({"a": 1, "b": 2}, r"\(dict\); it must return a list"),
        (torch.tensor([1.0, 2.0]), r"\(Tensor\); it must return a list"),
        (np.array([1.0, 2.0]), r"\(ndarray\); it must return a list"),
        ((value for value in [1.0, 2.0]), r"\(generator\); it must return a list"),
        ([1.0], "returned 1 value for 2 completions"),
        ([], "returned 0 values for 2 completions"),
        ([1.0, 2.0, 3.0], "returned 3 values for 2 completions"),
        ([1.0, float("nan")], r"returned nan \(float\); rewards must be finite .*completion 2 of 2, problem sum-1"),
        ([float("inf"), 1.0], r"returned inf \(float\); rewards must be finite .*completion 1 of 2"),
        ([1.0, -float("inf")], r"returned -inf \(float\); rewards must be finite"),
        ([1.0, torch.tensor(float("nan"))], r"returned tensor\(nan\) \(Tensor\); rewards must be finite"),
        ([1.0, "1"], r"returned '1' \(str\); each value must be a number or None .*completion 2"),
        ([1.0, b"1"], r"\(bytes\); each value must be a number"),
        ([1.0, True], r"returned True \(bool\); write float\(...\) around it"),
        ([1.0, np.bool_(True)], r"\(bool\w*\); write float\(...\) around it"),
        ([1.0, torch.tensor(True)], r"returned tensor\(True\) \(Tensor\); write float"),
        ([1.0, torch.tensor([1.0])], r"\(Tensor\); each value must be a number"),
        ([1.0, np.array([1.0])], r"\(ndarray\); each value must be a number"),
        ([1.0, [1.0]], r"returned \[1.0\] \(list\); each value must be a number"),
        ([1.0, 1j], r"returned 1j \(complex\); each value must be a number"),
        ([1.0, 10**400], r"\(int\); each value must be a number"),
        ([1.0, object()], r"\(object\); each value must be a number"),
        ([1.0, "x" * 10**7], r"returned 'x{1,20}\.\.\.x{1,20}' \(str\)"),
    ],
)
def test_anything_but_one_finite_number_per_completion_is_an_error(returned: Any, message: str):
    grader = a_grader(returning(returned))
    with pytest.raises(RewardError, match=message) as caught:
        grader.grade([a_group("a", "b", name="sum-1")])
    assert str(caught.value).startswith("reward function reward ")
    assert len(str(caught.value)) < 400
    assert grader.num_errors == {"reward": 1}


def test_a_completion_no_function_applies_to_is_an_error():
    def one(completions):
        return [None, 1.0]

    def two(completions):
        return [None, None]

    with pytest.raises(
        RewardError, match=r"one and two returned None; at least one .*completion 1 of 2, problem sum-1"
    ):
        a_grader(one, two).grade([a_group("a", "b", name="sum-1")])
