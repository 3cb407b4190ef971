"""Environments of the package `verifiers` (PrimeIntellect's): found, checked, and their rows read.

groat does not need the package. It is imported where a recipe names one of its environments.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from groat.tasks.reward_loading import load_own
from groat.tasks.reward_specs import built_from
from groat.tasks.rows import problems_from_rows
from groat.types import Problem, UserError

PREFIX = "verifiers:"
VERSIONS = "verifiers 0.1.9 to 0.3.1"
"""Whose environments groat can follow."""

_NAMED = re.compile(r"(?P<name>[^()]+)(?:\((?P<options>.*)\))?", re.DOTALL)
_NEEDED = (
    "init_state",
    "setup_state",
    "is_completed",
    "env_response",
    "get_prompt_messages",
    "add_trajectory_step",
    "render_completion",
    "rubric",
)


def load_environment(spec: str) -> Any:
    """`verifiers:ID`, `verifiers:path/to/file.py:function`, either with (option=value, ...); UserError for one that
    groat cannot follow. Runs the environment's own code."""
    found = _NAMED.fullmatch(spec.removeprefix(PREFIX).strip())
    if found is None:
        raise UserError(f"task.name is {spec!r}: write {PREFIX}ID or {PREFIX}path/to/file.py:load_environment")
    name, options = found["name"], _options(found["options"] or "", spec)
    make = load_own(name, "an environment") if ".py:" in name else _by_id(name)
    try:
        with _signal_handlers_kept():
            environment = make(**options)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{spec}: the environment could not be made, {type(error).__name__}: {str(error)[:300]}"
        ) from error
    _check(spec, environment)
    return environment


def environment_rows(environment: Any, spec: str) -> tuple[tuple[Problem, ...], tuple[Problem, ...] | None]:
    """The problems of its dataset and of its eval_dataset, where it has one."""
    rows = _dataset(environment, "dataset")
    if rows is None:
        raise UserError(f"{spec} has no dataset to train on, only one for evaluation")
    held_out = _dataset(environment, "eval_dataset")
    train = problems_from_rows(_plain_rows(rows, spec), spec)
    name = f"{spec} (eval_dataset)"
    return train, None if held_out is None else problems_from_rows(_plain_rows(held_out, name), name)


def plain_message(message: Any, where: str) -> dict[str, str]:
    """Role and text of a message, a mapping or an object; UserError for pictures and sounds."""
    role, content = _field(message, "role"), _field(message, "content")
    if isinstance(content, str) or content is None:
        return {"role": str(role), "content": content or ""}
    parts = cast("Sequence[Any]", content)
    kinds = {str(_field(part, "type")) for part in parts} - {"text"}
    if kinds:
        raise UserError(f"{where} has a message with {', '.join(sorted(kinds))}: groat's models read text only")
    return {"role": str(role), "content": "".join(str(_field(part, "text")) for part in parts)}


def _field(thing: Any, name: str) -> Any:
    return cast("Mapping[str, Any]", thing).get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _options(text: str, spec: str) -> Mapping[str, Any]:
    def made(_: str, arguments: list[Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
        if arguments:
            raise UserError(f"{spec}: options are written name=value")
        return options

    return built_from(f"environment({text})", made, lambda file: file)


def _by_id(name: str) -> Callable[..., Any]:
    if importlib.util.find_spec("verifiers") is None:
        raise UserError(
            f'{PREFIX}{name} needs verifiers, which is not installed: pip install "verifiers<0.4", and the package of '
            "the environment"
        )
    package = importlib.import_module("verifiers")
    load = getattr(package, "load_environment", None)
    if load is None:
        raise UserError(
            f"verifiers {getattr(package, '__version__', '')} has no load_environment: its environments are programs "
            "that talk to a model server, which groat does not have. Environments of an earlier kind work: pip install "
            '"verifiers<0.4"'
        )

    def loaded(**options: Any) -> Any:
        return load(name, **options)

    return loaded


def _check(spec: str, environment: Any) -> None:
    kind = type(environment).__name__
    if missing := [name for name in _NEEDED if not hasattr(environment, name)]:
        raise UserError(
            f"{spec} makes a {kind} without {', '.join(missing)}: groat follows SingleTurnEnv, MultiTurnEnv and "
            f"ToolEnv of {VERSIONS}"
        )
    if _is_own(environment, "rollout", "MultiTurnEnv"):
        raise UserError(
            f"{spec} makes a {kind}, which runs its conversations in a way of its own (rollout): groat follows those "
            "of MultiTurnEnv. Of an EnvGroup name one environment"
        )
    if _is_own(environment, "get_model_response", "Environment"):
        raise UserError(
            f"{spec} makes a {kind}, which asks a model server itself (get_model_response): groat's model is asked for "
            "whole turns only, so it cannot be trained on"
        )
    if getattr(environment, "message_type", "chat") != "chat":
        raise UserError(f"{spec} completes plain text (message_type): groat follows environments with chat turns")


def _is_own(environment: Any, method: str, of: str) -> bool:
    found = getattr(type(environment), method, None)
    return found is not None and found.__qualname__ != f"{of}.{method}"


def _dataset(environment: Any, name: str) -> Any:
    """Built first, where that is left until it is asked for."""
    build = getattr(environment, f"build_{name}", None)
    return getattr(environment, name, None) if build is None else build()


def _plain_rows(rows: Any, spec: str) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, start=1):
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = [plain_message(message, f"{spec}, row {number},") for message in prompt]
        yield {**row, "prompt": prompt}


@contextmanager
def _signal_handlers_kept() -> Generator[None]:
    """An environment takes SIGINT and SIGTERM for itself, and a run would no longer be saved when it is stopped."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
