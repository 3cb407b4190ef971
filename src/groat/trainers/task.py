"""What a task built from Python needs besides rows and functions: the trainer's state, and an order that stays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

from groat.tasks.reward_calls import is_async
from groat.tasks.rewards import RewardFunction
from groat.tasks.task import Task
from groat.trainers.callbacks import TrainerState
from groat.types import Problem


def with_trainer_state(reward: RewardFunction, state: TrainerState) -> RewardFunction:
    """The reward function, given this state where it takes `trainer_state`."""
    function = reward.function

    def completed(given: dict[str, Any]) -> dict[str, Any]:
        return {**given, "trainer_state": state} if "trainer_state" in given else given

    def call(**given: Any) -> Any:
        return function(**completed(given))

    async def call_async(**given: Any) -> Any:
        return await function(**completed(given))

    wrapped: Callable[..., Any] = functools.wraps(function)(call_async if is_async(function) else call)
    return replace(reward, function=wrapped)


def repeating_in_order(task: Task) -> Task:
    """The same rows in the same order in every epoch."""
    return replace(task, train=_Repeated(task.train))


class _Repeated(Sequence[Problem]):
    """The rows over and over, as one epoch without end: the order is drawn anew only where an epoch begins."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems

    def __len__(self) -> int:
        return 2**62

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | Sequence[Problem]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._problems[index % len(self._problems)]
