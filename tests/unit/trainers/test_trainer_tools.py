"""tools= of GRPOTrainer, as in TRL: functions in, conversations for the reward functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_trainers import toy_trainer

from groat.testing.toy_task import VOWELS
from groat.tracking.store import RunStore
from groat.types import UserError


def echo(text: str) -> str:
    """Says it again.

    Args:
        text: Anything.
    """
    return text


def nameless(text: str) -> str:
    return text


def test_tools_reach_the_task_and_rewards_get_conversations(tmp_path: Path):
    seen: list[Any] = []

    def reward(completions: list[Any], **_: Any) -> list[float]:
        seen.extend(completions)
        return [float(sum(letter in VOWELS for letter in turns[-1]["content"])) for turns in completions]

    trainer = toy_trainer(tmp_path, reward_funcs=reward, tools=[echo], max_steps=1, max_tool_calling_iterations=2)
    environments = trainer._task.environments  # type: ignore[reportPrivateUsage]
    assert environments is not None
    assert environments.max_turns == 3
    output = trainer.train()
    assert [turns[0]["role"] for turns in seen] == ["assistant"] * 32
    with RunStore.read(Path(output.output_dir) / "run.sqlite") as reader:
        assert all(row.turns[0].content == row.text for row in reader.rollouts(1) if len(row.turns) == 1)


def test_without_a_number_of_iterations_the_length_is_the_limit(tmp_path: Path):
    trainer = toy_trainer(tmp_path, tools=[echo], max_completion_length=9)
    assert trainer._task.environments is not None  # type: ignore[reportPrivateUsage]
    assert trainer._task.environments.max_turns == 9  # type: ignore[reportPrivateUsage]


def test_a_function_without_a_docstring_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nameless has no docstring"):
        toy_trainer(tmp_path, tools=[nameless])
