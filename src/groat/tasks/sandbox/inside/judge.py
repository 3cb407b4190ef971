"""Runs tests in a process of their own: what they call is the program's, in another process, and answers by plain data.

The tests, and what they expect, never enter the program's process, so that there is nothing to read, patch or skip.
"""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import IO, Any

import plain_data

FROM_OTHER, TO_OTHER = 4, 5
VERDICTS = 6
LONGEST_LINE = 8 * 2**20
_LONGEST_REASON = 200

_ENDS_LOOPS = (StopIteration, StopAsyncIteration)
"""Raised into a test they would end its loop early, and what is not checked is not wrong."""


class ProgramError(Exception):
    """The program ended, or raised something that is no built-in exception."""


class Program:
    """The program's functions, called in its own process."""

    def __init__(self) -> None:
        self._answers, self._calls = channel()

    def functions(self) -> Sequence[str]:
        greeting = self._next_answer()
        if "error" in greeting:
            raise ProgramError(": ".join(map(str, greeting["error"])))
        return [str(name) for name in greeting["functions"]]

    def call(self, name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        return self.call_encoded(name, plain_data.encode([arguments, keywords]))

    def call_encoded(self, name: str, arguments: str) -> Any:
        """`arguments` is a list of two: those by position, and those by keyword."""
        call = {"name": name, "arguments": arguments}
        try:
            self._calls.write(f"{json.dumps(call)}\n")
            self._calls.flush()
        except OSError:
            raise ProgramError("the program ended") from None
        answer = self._next_answer()
        if "error" in answer:
            raise _as_exception(*answer["error"])
        return plain_data.decode(answer["value"])

    def function(self, name: str) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            return self.call(name, arguments, keywords)

        function.__name__ = function.__qualname__ = name
        return function

    def _next_answer(self) -> dict[str, Any]:
        line = self._answers.readline(LONGEST_LINE)
        if not line.endswith("\n"):
            raise ProgramError("the program ended" if not line else "the program's answer is too long")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ProgramError("the program's answer is not readable")
        return answer


def judge(request: dict[str, Any]) -> None:
    """Writes a line for each test: null where it holds, or why it does not."""
    with os.fdopen(VERDICTS, "w", encoding="utf-8") as verdicts:
        program = Program()
        try:
            space = _test_module(request["setup"], program)
        except BaseException as error:
            _write(verdicts, [_reason(error)] * len(request["tests"]))
            return
        for test in request["tests"]:
            _write(verdicts, [_verdict(test, program, space)])


def channel() -> tuple[IO[str], IO[str]]:
    """From and to the process on the other side."""
    return (
        os.fdopen(FROM_OTHER, encoding="utf-8", errors="replace"),
        os.fdopen(TO_OTHER, "w", encoding="utf-8", errors="replace"),
    )


def _verdict(test: Any, program: Program, space: ModuleType) -> str | None:
    try:
        if isinstance(test, str):
            _run(test, space)
            return None
        value = program.call_encoded(test["call"], test["arguments"])
        is_right = plain_data.same(value, plain_data.decode(test["expected"]))
        return None if is_right else f"returned {value!r}"[:_LONGEST_REASON]
    except BaseException as error:
        return _reason(error)


def _test_module(setup: str, program: Program) -> ModuleType:
    """Where the tests run: the names of the program's functions stand for calls to its process.

    But what the tests mean by `abs` or `all` is Python's, whatever the program calls by that name.
    """
    space = ModuleType("tests")
    for name in program.functions():
        if not hasattr(builtins, name) and not name.startswith("__"):
            setattr(space, name, program.function(name))
    _run(setup, space)
    return space


def _run(source: str, space: ModuleType) -> None:
    exec(compile(source, "tests.py", "exec"), space.__dict__)  # noqa: S102 - in the sandbox


def _as_exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, str(name), None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, _ENDS_LOOPS):
        with suppress(TypeError):  # such as UnicodeDecodeError, which wants more than a text
            return kind(str(text))
    return ProgramError(f"{name}: {text}")


def _reason(error: BaseException) -> str:
    if isinstance(error, ProgramError | AssertionError) and str(error):
        return str(error)[:_LONGEST_REASON]
    name = "not so" if isinstance(error, AssertionError) else type(error).__name__
    return f"{name}: {error}"[:_LONGEST_REASON].removesuffix(": ")


def _write(verdicts: IO[str], lines: Sequence[str | None]) -> None:
    verdicts.writelines(f"{json.dumps(line)}\n" for line in lines)
    verdicts.flush()
