"""Finding reward functions: a built-in name, with options or without, or `path/to/file.py:function`."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from groat.tasks.answers import exact_answer, numeric_answer
from groat.tasks.code_reward import all_code_tests_reward, code_tests_reward
from groat.tasks.combinators import gate, weighted_sum
from groat.tasks.countdown import countdown_answer, countdown_numbers
from groat.tasks.formats import think_format, xml_format, xml_share
from groat.tasks.isolated_rewards import isolated
from groat.tasks.json_schemas import json_schema
from groat.tasks.large_arithmetic import called_answer, called_numbers
from groat.tasks.llm_judge import llm_judge
from groat.tasks.math_answers import math_answer
from groat.tasks.patterns import regex
from groat.tasks.reward_arguments import check_arguments
from groat.tasks.reward_specs import built_from
from groat.tasks.rewards import RewardFunction
from groat.tasks.shaping import length_near, repetition, soft_overlong
from groat.tasks.verifiers import answer_match, correct_answer, exact_match, numeric_match, right_steps, written_steps
from groat.types import UserError

BUILT_IN: dict[str, Callable[..., Any]] = {
    "correct_answer": correct_answer,
    "right_steps": right_steps,
    "written_steps": written_steps,
    "exact_match": exact_match,
    "numeric_match": numeric_match,
    "answer_match": answer_match,
    "countdown_answer": countdown_answer,
    "countdown_numbers": countdown_numbers,
    "called_answer": called_answer,
    "called_numbers": called_numbers,
}
FACTORIES: dict[str, Callable[..., Callable[..., Any]]] = {
    "exact_answer": exact_answer,
    "numeric_answer": numeric_answer,
    "math_answer": math_answer,
    "think_format": think_format,
    "xml_format": xml_format,
    "xml_share": xml_share,
    "soft_overlong": soft_overlong,
    "length_near": length_near,
    "repetition": repetition,
    "weighted_sum": weighted_sum,
    "gate": gate,
    "regex": regex,
    "json_schema": json_schema,
    "llm_judge": llm_judge,
    "code_tests": code_tests_reward,
    "all_code_tests": all_code_tests_reward,
}
"""Rewards that take options; the name alone is the reward with its defaults."""

GivenFunctions = Callable[..., Any] | str | Sequence[Callable[..., Any] | str]
"""One or several, each a function or a name."""


def reward_functions(
    functions: GivenFunctions,
    weights: Sequence[float] | None,
    columns: Collection[str],
    isolated_seconds: float | None = None,
) -> tuple[RewardFunction, ...]:
    """Named after the functions; of equal names the second becomes name_2. `columns` is what the data has.

    With `isolated_seconds`, functions of files run in processes of their own, with this time limit.
    """
    given = [functions] if isinstance(functions, str) or callable(functions) else list(functions)
    loaded = [
        load_reward(function, isolated_seconds) if isinstance(function, str) else _callable(function)
        for function in given
    ]
    if weights is not None and len(weights) != len(loaded):
        raise UserError(f"reward_weights has {len(weights)} values for {len(loaded)} reward functions")
    names = told_apart([_name_of(function) for function in loaded])
    for name, function in zip(names, loaded, strict=True):
        check_arguments(name, function, columns)
    return tuple(
        RewardFunction(name=name, function=function, weight=float(weight))
        for name, function, weight in zip(names, loaded, weights or [1.0] * len(loaded), strict=True)
    )


def load_reward(spec: str, isolated_seconds: float | None = None) -> Callable[..., Any]:
    """Runs the file: it is the user's own code."""

    def from_file(name: str) -> Callable[..., Any]:
        function = _from_file(name)
        return function if isolated_seconds is None else isolated(name, function, isolated_seconds)

    file, colon, _ = spec.rpartition(":")
    if colon and file.endswith(".py") and "(" not in spec:
        return from_file(spec)
    loaded = built_from(spec, _built_in, from_file) if "(" in spec else _built_in(spec, [], {})
    if not callable(loaded):
        raise UserError(f"{spec!r} is no reward function")
    return loaded


def load_own(spec: str, what: str) -> Callable[..., Any]:
    """The function or class that `path/to/file.py:name` names. Runs the file: it is the user's own code."""
    if ".py:" not in spec:
        raise UserError(f"{spec!r} does not name {what}: write path/to/file.py:name")
    return _from_file(spec)


def _built_in(name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    if name in BUILT_IN and not arguments and not options:
        return BUILT_IN[name]
    if name in FACTORIES:
        try:
            return FACTORIES[name](*arguments, **options)
        except TypeError as error:  # what Python says of an unknown option, a missing one or a value of another kind
            raise UserError(f"the options of the reward {name}: {error}") from error
    known = (*BUILT_IN, *FACTORIES)
    near = difflib.get_close_matches(name, known, n=1)
    if name in BUILT_IN:
        raise UserError(f"the reward {name} takes no options")
    raise UserError(
        f"no reward function {name!r}{f': did you mean {near[0]}?' if near else ''}. "
        f"Built in are {', '.join(known)}; your own is written path/to/file.py:function"
    )


def _from_file(spec: str) -> Callable[..., Any]:
    file, _, name = spec.rpartition(":")
    module = _loaded_file(Path(file))
    function = getattr(module, name, None)
    if not callable(function):
        others = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{file} has no function {name!r}; it has {', '.join(others) or 'none'}")
    return function


def _loaded_file(path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        place = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise UserError(f"cannot read the file {path}{place}: {error.strerror}. Check the path") from error
    # Named after its content: two functions of one file share its state, and an edited file is loaded again.
    name = f"groat_rewards_{hashlib.sha256(str(path.resolve()).encode() + content).hexdigest()[:16]}"
    if name not in sys.modules:
        sys.modules[name] = _run_file(name, path)
    return sys.modules[name]


def _run_file(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses look their module up while it runs
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"the file {path} does not run: {type(error).__name__}: {error}") from error
    return module


def _callable(function: Any) -> Callable[..., Any]:
    if not callable(function) or hasattr(function, "forward"):
        raise UserError(
            f"a reward function must be a function or a name, got {type(function).__name__} "
            "(reward models are not supported: call yours inside a function)"
        )
    return function


def _name_of(function: Any) -> str:
    function = getattr(function, "func", function)  # functools.partial
    return getattr(function, "__name__", type(function).__name__)


def told_apart(names: Sequence[str]) -> list[str]:
    """Of equal names the second becomes name_2."""
    told: list[str] = []
    for name in names:
        number, other = 1, name
        while other in told:
            number += 1
            other = f"{name}_{number}"
        told.append(other)
    return told
