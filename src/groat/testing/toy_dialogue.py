"""A task of two turns that a tiny model learns in a few seconds: write a vowel, and another when asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from groat.tasks.environments import OwnEnvironments
from groat.tasks.task import Task, task_from_rows
from groat.testing.toy_task import VOWELS, toy_rows
from groat.types import Problem

STOPS = tuple(sorted(VOWELS))
"""For `sampling.stop`: a vowel ends a turn."""
_NUM_TURNS = 2


class AskAgain:
    """An environment that asks once more."""

    def __init__(self, problem: Problem) -> None:
        del problem
        self._num_asked = 0

    def reply(self, text: str) -> str | None:
        del text
        self._num_asked += 1
        return "Again!" if self._num_asked < _NUM_TURNS else None


def soon(completions: Sequence[Sequence[Mapping[str, Any]]], **_: Any) -> list[float]:
    """A reward function: over both turns, the mean of 1 / (1 + characters before the vowel); 0 for a turn that is not
    there."""
    return [
        sum(1 / (1 + len(turn["content"])) for turn in turns if turn["role"] == "assistant") / _NUM_TURNS
        for turns in completions
    ]


def toy_dialogue_task(num_problems: int = 16, num_held_out: int = 8) -> Task:
    """Right are completions whose turns both begin with a vowel."""
    rows = toy_rows(num_problems + num_held_out)
    task = task_from_rows(rows[:num_problems], rows[num_problems:] or None, soon, name="vowel-dialogue")
    return replace(task, environments=OwnEnvironments(make=AskAgain, max_turns=_NUM_TURNS))
