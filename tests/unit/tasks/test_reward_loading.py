"""Reward functions are found by name or in a file, and what is wrong with them is said before the first step."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from groat.tasks import load_reward
from groat.tasks.reward_loading import BUILT_IN, reward_functions
from groat.types import UserError

FILE = """
calls = []

def length(completions, **kwargs):
    calls.append(1)
    return [float(len(calls)) for _ in completions]

def other(completions, **kwargs):
    return length(completions)

constant = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return path


def test_built_in_names_are_found():
    assert set(BUILT_IN) == {
        "correct_answer",
        "right_steps",
        "written_steps",
        "exact_match",
        "numeric_match",
        "answer_match",
        "countdown_answer",
        "countdown_numbers",
        "called_answer",
        "called_numbers",
    }
    assert all(load_reward(name) is function for name, function in BUILT_IN.items())


def test_functions_of_one_file_share_its_state(file: Path):
    assert load_reward(f"{file}:length")(["a"]) == [1.0]
    assert load_reward(f"{file}:other")(["a"]) == [2.0]


def test_an_edited_file_is_loaded_again(file: Path):
    load_reward(f"{file}:length")
    file.write_text("def length(completions): return [7.0]")
    assert load_reward(f"{file}:length")(["a"]) == [7.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("correct_anser", r"no reward function 'correct_anser': did you mean correct_answer\?"),
        ("zzz", r"no reward function 'zzz'\. Built in are correct_answer, .*path/to/file.py:function"),
        ("rewards.txt:length", r"no reward function 'rewards.txt:length'"),
        ("", "no reward function ''"),
        ("nowhere/rewards.py:length", r"cannot read the file nowhere.rewards.py \(looked for in .*\): No such"),
        ("{file}:width", r"has no function 'width'; it has length, other"),
        ("{file}:constant", "has no function 'constant'"),
        ("{file}:", "has no function ''"),
    ],
)
def test_a_wrong_name_says_what_there_is(file: Path, spec: str, message: str):
    with pytest.raises(UserError, match=message):
        load_reward(spec.format(file=file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("\0", "(SyntaxError|ValueError)"),
    ],
)
def test_a_file_that_does_not_run_says_why(file: Path, content: str, message: str):
    file.write_text(content)
    with pytest.raises(UserError, match=f"does not run: {message}"):
        load_reward(f"{file}:length")


def length(completions, **kwargs):
    return [1.0 for _ in completions]


def test_weights_are_all_1_unless_given():
    assert [reward.weight for reward in reward_functions([length, "exact_match"], None, ["answer"])] == [1.0, 1.0]
    assert [reward.weight for reward in reward_functions([length, "exact_match"], [2, 0.5], ["answer"])] == [2.0, 0.5]
    with pytest.raises(UserError, match="2 values for 1 reward functions"):
        reward_functions(length, [1.0, 2.0], [])


def test_names_are_those_of_the_functions_and_are_told_apart():
    class Judge:
        def __call__(self, completions):
            return [1.0]

    given = [length, length, functools.partial(length), Judge(), "exact_match"]
    assert [reward.name for reward in reward_functions(given, None, ["answer"])] == [
        *("length", "length_2", "length_3", "Judge", "exact_match")
    ]


def test_an_argument_that_no_column_fills_is_an_error_before_the_first_step():
    def needs(completions, ground_truth, temperature=1.0, *rest, **others):
        return [1.0]

    with pytest.raises(
        UserError, match=r"needs needs `ground_truth`, which is no column of the data \(answer, level\)"
    ):
        reward_functions(needs, None, ["level", "answer"])
    assert reward_functions(needs, None, ["ground_truth"])[0].name == "needs"


def test_an_argument_by_position_only_is_an_error():
    def by_position(completions, /):
        return [1.0]

    with pytest.raises(UserError, match="takes completions by position only"):
        reward_functions(by_position, None, [])


@pytest.mark.parametrize("given", [3, torch.nn.Linear(1, 1)])
def test_a_reward_model_is_refused(given: object):
    with pytest.raises(UserError, match="must be a function or a name"):
        reward_functions([given], None, [])
