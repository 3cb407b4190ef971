"""What a reward function is called with: of TRL's keywords and the dataset's columns, those it takes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groat.types import Problem, Turn, UserError

KEYWORDS = ("prompts", "completions", "completion_ids", "environments", "trainer_state", "log_extra", "log_metric")
"""What every reward function is offered besides the columns; no column may have one of these names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What reward functions are asked about: item i of every field belongs to completion i."""

    problems: Sequence[Problem]
    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    turns: Sequence[Sequence[Turn]]
    """All turns of completions that are conversations, whose text is the last one; else none."""
    environments: Sequence[Any] = ()
    """What each completion talked to; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Collects what reward functions log while one batch is graded."""

    num_completions: int
    metrics: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    extras: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def log_metric(self, name: str, value: float) -> None:
        self.metrics.setdefault(str(name), []).append(float(value))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        if len(values) != self.num_completions:
            raise ValueError(f"log_extra got {len(values)} values of {column!r} for {self.num_completions} completions")
        self.extras[str(column)] = list(values)


def reward_arguments(
    function: Callable[..., Any], answers: Answers, trainer_state: Any, logged: Logged
) -> dict[str, Any]:
    """Copies made for this one call: what the function does to them reaches no one else."""
    offered: dict[str, Callable[[], Any]] = {
        "prompts": lambda: [problem.plain_prompt for problem in answers.problems],
        "completions": lambda: [
            _as_trl(*answer) for answer in zip(answers.problems, answers.texts, answers.turns, strict=True)
        ],
        "completion_ids": lambda: [list(token_ids) for token_ids in answers.token_ids],
        "environments": lambda: list(answers.environments) or [None] * len(answers.texts),
        "trainer_state": lambda: trainer_state,
        "log_extra": lambda: logged.log_extra,
        "log_metric": lambda: logged.log_metric,
    }
    columns = {name for problem in answers.problems for name in problem.columns}
    unasked = () if any(one is not None for one in answers.environments) else ("environments",)
    return {
        name: offered[name]() if name in offered else _column(answers.problems, name)
        for name in (*offered, *sorted(columns))
        if (_names(function, name) if name in unasked else takes(function, name))
    }


def check_arguments(name: str, function: Callable[..., Any], columns: Collection[str]) -> None:
    """A function that needs what no row has is an error before the first step."""
    for parameter in _parameters(function).values():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and parameter.kind is parameter.POSITIONAL_ONLY:
            raise UserError(f"reward function {name} takes {parameter.name} by position only; arguments come by name")
        if needed and parameter.name not in KEYWORDS and parameter.name not in columns:
            raise UserError(
                f"reward function {name} needs `{parameter.name}`, which is no column of the data "
                f"({', '.join(sorted(columns)) or 'it has none'}) and none of {', '.join(KEYWORDS)}: "
                "rename the argument or the column"
            )


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether it can be given an argument by that name."""
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in _parameters(function).values())
    return takes_all or _names(function, name)


def _names(function: Callable[..., Any], name: str) -> bool:
    named = _parameters(function).get(name)
    return named is not None and named.kind in (named.POSITIONAL_OR_KEYWORD, named.KEYWORD_ONLY)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some callables written in C do not say what they take
        return {"any": inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)}


def _as_trl(problem: Problem, text: str, turns: Sequence[Turn]) -> str | list[dict[str, Any]]:
    if turns:
        return [_message(turn) for turn in turns]
    return [{"role": "assistant", "content": text}] if problem.is_conversational else text


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": copy.deepcopy(dict(call.arguments))}}
            for call in turn.calls
        ]
    return message


def _column(problems: Sequence[Problem], name: str) -> list[Any]:
    """None where a row does not have the column."""
    return copy.deepcopy([problem.columns.get(name) for problem in problems])
