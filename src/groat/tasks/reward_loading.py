"""Finding reward functions: a built-in name, or `path/to/file.py:function`."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from groat.tasks.code_reward import CodeReward
from groat.tasks.reward_arguments import check_arguments
from groat.tasks.rewards import RewardFunction
from groat.tasks.verifiers import answer_match, correct_answer, exact_match, numeric_match, right_steps, written_steps
from groat.types import UserError

BUILT_IN: dict[str, Callable[..., Any]] = {
    "correct_answer": correct_answer,
    "right_steps": right_steps,
    "written_steps": written_steps,
    "exact_match": exact_match,
    "numeric_match": numeric_match,
    "answer_match": answer_match,
}

MADE: dict[str, Callable[[], Callable[..., Any]]] = {
    "code_tests": CodeReward,
    "all_code_tests": partial(CodeReward, all_or_nothing=True),
}
"""Built in too, but made for each run: they hold a process."""

GivenFunctions = Callable[..., Any] | str | Sequence[Callable[..., Any] | str]
"""One or several, each a function or a name."""


def reward_functions(
    functions: GivenFunctions,
    weights: Sequence[float] | None,
    columns: Collection[str],
) -> tuple[RewardFunction, ...]:
    """Named after the functions; of equal names the second becomes name_2. `columns` is what the data has."""
    given = [functions] if isinstance(functions, str) or callable(functions) else list(functions)
    loaded = [load_reward(function) if isinstance(function, str) else _callable(function) for function in given]
    if weights is not None and len(weights) != len(loaded):
        raise UserError(f"reward_weights has {len(weights)} values for {len(loaded)} reward functions")
    names = _told_apart([_name_of(function) for function in loaded])
    for name, function in zip(names, loaded, strict=True):
        check_arguments(name, function, columns)
    return tuple(
        RewardFunction(name=name, function=function, weight=float(weight))
        for name, function, weight in zip(names, loaded, weights or [1.0] * len(loaded), strict=True)
    )


def load_reward(spec: str) -> Callable[..., Any]:
    """Runs the file: it is the user's own code."""
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if spec in MADE:
        return MADE[spec]()
    file, colon, name = spec.rpartition(":")
    if not colon or not file.endswith(".py"):
        near = difflib.get_close_matches(spec, [*BUILT_IN, *MADE], n=1)
        raise UserError(
            f"no reward function {spec!r}{f': did you mean {near[0]}?' if near else ''}. "
            f"Built in are {', '.join([*BUILT_IN, *MADE])}; your own is written path/to/file.py:function"
        )
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
        raise UserError(f"cannot read the reward file {path}{place}: {error.strerror}. Check the path") from error
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
        raise UserError(f"the reward file {path} does not run: {type(error).__name__}: {error}") from error
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


def _told_apart(names: Sequence[str]) -> list[str]:
    told: list[str] = []
    for name in names:
        number, other = 1, name
        while other in told:
            number += 1
            other = f"{name}_{number}"
        told.append(other)
    return told
