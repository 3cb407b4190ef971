"""Built-in rewards that take options: each is made by a factory and called like any reward function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from groat.tasks.explained import Explained
from groat.tasks.verifiers import Completions, completion_text

Scores = list[Explained | None]


class BuiltReward:
    """A reward function made of `score`, which is called with the completions and those of `columns` that are there.

    `most_seconds` says how long that many completions can take, for rewards that limit each of them by themselves:
    the grader then waits so long, whatever its own limit. `close` gives back what the reward holds, such as worker
    processes; a later call takes it again. `worker_bytes` is what those hold, all together.
    """

    def __init__(
        self,
        name: str,
        score: Callable[..., Sequence[float | None]],
        columns: Iterable[str | inspect.Parameter] = (),
        *,
        most_seconds: Callable[[int], float] | None = None,
        close: Callable[[], None] | None = None,
        worker_bytes: int = 0,
    ) -> None:
        self.__name__ = name
        self.__signature__ = _signature(columns)
        self.most_seconds = most_seconds
        self.worker_bytes = worker_bytes
        self._score = score
        self._close = close

    def __call__(self, completions: Completions, **given: Any) -> list[float | None]:
        return list(self._score(completions, **given_to(self, given)))

    def close(self) -> None:
        if self._close is not None:
            self._close()


def text_reward(name: str, rule: Callable[[str], Explained]) -> BuiltReward:
    """A reward that looks at one text at a time."""

    def score(completions: Completions) -> list[Explained]:
        return [rule(text) for text in texts_of(completions)]

    return BuiltReward(name, score)


def answer_reward(name: str, rule: Callable[[str, Any], Explained], column: str) -> BuiltReward:
    """A reward that compares one text at a time with a column; None where the row has no answer."""

    def score(completions: Completions, **columns: Sequence[Any]) -> Scores:
        pairs = zip(texts_of(completions), columns[column], strict=True)
        return [None if answer is None else rule(text, answer) for text, answer in pairs]

    return BuiltReward(name, score, (column,))


def texts_of(completions: Completions) -> list[str]:
    return [completion_text(completion) for completion in completions]


def given_to(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Of the keywords at hand, those that a function takes."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


def _signature(columns: Iterable[str | inspect.Parameter]) -> inspect.Signature:
    parameters = [
        inspect.Parameter(column, inspect.Parameter.KEYWORD_ONLY) if isinstance(column, str) else column
        for column in ("completions", *columns)
    ]
    return inspect.Signature(parameters)
