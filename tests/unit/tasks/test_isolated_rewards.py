"""Reward functions of files in processes of their own: the same values, and no way to take the trainer with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reward_examples import a_group

from groat.tasks import Grader, RewardError
from groat.tasks.reward_loading import reward_functions
from groat.types import UserError

FILE = """
import asyncio, os, sys, time
from groat.tasks import Explained

def right(completions, answer, **kwargs):
    return [Explained(float(text == wanted), f"{text} for {wanted}") for text, wanted in zip(completions, answer)]

async def later(completions):
    await asyncio.sleep(0.01)
    return [1.0 if text else None for text in completions]

def logs(prompts, completions, completion_ids, log_metric, log_extra):
    log_metric("length", sum(map(len, completion_ids)))
    log_extra("shouted", [text.upper() for text in completions])
    return [float(len(prompt)) for prompt in prompts]

def process(completions): return [float(os.getpid()) for _ in completions]
def prints(completions):
    print("x" * 10**6)
    return [0.0 for _ in completions]
def hangs(completions): time.sleep(1000)
def dies(completions): os._exit(7)
def exits(completions): sys.exit(7)
def raises(completions): return 1 / 0
def short(completions): return [1.0]
def nan(completions): return [float("nan") for _ in completions]
def stateful(completions, trainer_state): return [1.0 for _ in completions]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def graded(file: Path, name: str, *texts: str, seconds: float = 30.0, **columns: Any):
    grader = Grader(reward_functions([f"{file}:{name}"], None, set(columns), isolated_seconds=seconds), seconds)
    try:
        return grader.grade([a_group(*texts, **columns)])[0].rewards, grader
    finally:
        grader.close()


def test_values_and_reasons_come_back(file: Path):
    rewards, _ = graded(file, "right", "4", "5", answer="4")
    assert [reward.parts for reward in rewards] == [{"right": 1.0}, {"right": 0.0}]
    assert [reward.reasons["right"] for reward in rewards] == ["4 for 4", "5 for 4"]


def test_async_functions_and_none_work(file: Path):
    grader = Grader(reward_functions([f"{file}:later", "answer_match"], None, {"answer"}, isolated_seconds=30))
    [group] = grader.grade([a_group("4", "", answer="4")])
    grader.close()
    assert [reward.parts for reward in group.rewards] == [
        {"later": 1.0, "answer_match": 1.0},
        {"later": None, "answer_match": 0.0},
    ]


def test_what_is_logged_comes_back(file: Path):
    rewards, grader = graded(file, "logs", "a", "b", prompt="1234567")
    assert [reward.total for reward in rewards] == [7.0, 7.0]
    assert grader.metrics == {"length": 2.0}
    assert grader.extras == {"shouted": ["A", "B"]}


def test_the_process_is_another_one(file: Path):
    import os

    rewards, _ = graded(file, "process", "a")
    assert rewards[0].total != os.getpid()
    assert graded(file, "prints", "a")[0][0].total == 0.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dies", r"reward function dies ended its process \(exit status 7\)"),
        ("exits", "reward function exits raised SystemExit: 7"),
        ("raises", r"reward function raises raised ZeroDivisionError: division by zero \(mine.py, line 24\)"),
        ("short", "reward function short returned 1 value for 2 completions"),
        ("nan", r"reward function nan returned nan \(float\); rewards must be finite.*completion 1 of 2"),
    ],
)
def test_mistakes_are_named_errors(file: Path, name: str, message: str):
    with pytest.raises(RewardError, match=message):
        graded(file, name, "a", "b")


def test_a_function_that_hangs_is_killed_and_the_next_call_gets_a_new_process(file: Path):
    [hanging] = reward_functions([f"{file}:hangs"], None, set(), isolated_seconds=2.0)
    grader = Grader([hanging], timeout_seconds=1.0)
    for _ in range(2):
        with pytest.raises(RewardError, match="did not return within 2 s and was killed"):
            grader.grade([a_group("a")])
    grader.close()
    assert grader.num_errors == {"hangs": 2}


def test_columns_must_be_json(file: Path):
    with pytest.raises(RewardError, match="the column answer cannot be sent there"):
        graded(file, "right", "a", answer=object())


def test_the_trainer_s_state_stays_in_the_trainer(file: Path):
    with pytest.raises(UserError, match="takes trainer_state"):
        reward_functions([f"{file}:stateful"], None, set(), isolated_seconds=1.0)


def test_files_inside_combinations_are_isolated_too(file: Path):
    spec = f'gate("{file}:process", when=regex(pattern="a", num_workers=1, timeout_seconds=20))'
    [isolated] = reward_functions([spec], None, set(), isolated_seconds=30.0)
    [here] = reward_functions([spec], None, set())
    values = isolated.function(["a"]), here.function(["a"])
    isolated.function.close()
    here.function.close()
    assert values[0] != values[1]
