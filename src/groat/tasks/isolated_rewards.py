"""Reward functions of a file, called in a process of their own: one that hangs is killed, one that crashes is alone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.explained import Explained
from groat.tasks.isolation import Launcher, Limits, Target, Worker, WorkerError
from groat.tasks.isolation.worker import START_SECONDS
from groat.tasks.reward_calls import Raised, Returned
from groat.tasks.reward_values import BadValueError
from groat.tasks.verifiers import Completions
from groat.types import UserError

RESIDENT_BYTES = 36 * 2**20
"""Of a worker, measured on Linux with Python 3.11; what the file itself imports comes on top."""
_HOOKS = ("log_metric", "log_extra")
_STAYING = ("trainer_state", "environments")


def isolated(
    spec: str, function: Callable[..., Any], timeout_seconds: float, launcher: Launcher | None = None
) -> BuiltReward:
    """The function that `spec` (`path/to/file.py:function`) names, called in a worker process with the time limit.

    `function` is the same one, for its name and what it takes. It gets what it always gets, but for `trainer_state`,
    through JSON: columns must be made of texts, numbers, lists and mappings.
    """
    parameters = inspect.signature(function).parameters
    for name in _STAYING:
        if name in parameters:
            raise UserError(f"{spec} takes {name}, which stays in the trainer: with task.isolate_rewards it cannot")
    worker = Worker(
        Target(name="groat.tasks.isolated_call:answer_call", is_trusted=True),
        Limits(seconds=timeout_seconds),
        launcher,
    )

    def score(completions: Completions, **given: Any) -> list[float | None]:
        hooks = {name: given.pop(name) for name in _HOOKS if name in given}
        sent = {name: value for name, value in given.items() if name not in _STAYING}
        arguments = {"completions": completions, **sent}
        _check_is_json(spec, arguments)
        outcome = worker.call({"spec": spec, "arguments": arguments})
        if isinstance(outcome, Raised):
            raise outcome.error
        if not isinstance(outcome, Returned):
            raise WorkerError(
                f"did not return within {timeout_seconds:g} s and was killed. Raise task.reward_timeout_seconds, or "
                "put a time limit into the function"
            )
        _log(hooks, outcome.value)
        return _values(outcome.value)

    return BuiltReward(
        getattr(function, "__name__", "reward"),
        score,
        [_by_name(parameter) for name, parameter in parameters.items() if name != "completions"],
        most_seconds=lambda _: START_SECONDS + timeout_seconds + 1,
        close=worker.close,
        worker_bytes=RESIDENT_BYTES,
    )


def _log(hooks: Mapping[str, Callable[..., None]], answer: Mapping[str, Any]) -> None:
    for name, values in answer.get("metrics", {}).items():
        for value in values:
            hooks["log_metric"](name, value)
    for column, values in answer.get("extras", {}).items():
        hooks["log_extra"](column, values)


def _values(answer: Mapping[str, Any]) -> list[float | None]:
    if "bad" in answer:
        raise BadValueError(answer["bad"], answer["place"])
    return [value if why is None else Explained(value, why) for value, why in answer["values"]]


def _by_name(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
        return parameter
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=parameter.empty)


def _check_is_json(spec: str, arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{spec} runs in a process of its own, but the column {name} cannot be sent there ({error}): write it "
                "as text or numbers, or set task.isolate_rewards to false"
            ) from error
