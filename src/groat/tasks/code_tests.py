"""Unit tests of a row: what its `tests` column may hold, and running a program against them in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from groat.tasks.sandbox import Limits, Sandbox
from groat.tasks.sandbox.inside.plain_data import NotPlainError, encode
from groat.tasks.sandbox.programs import ScriptRun, judge_functions, run_script
from groat.types import UserError

_LEAST_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintTest:
    """The program reads `stdin` and must print `stdout`; blanks at the ends of lines do not matter."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTests:
    """All tests of one problem. `in_judge` are statements (text), or calls with the value that they must return."""

    in_judge: tuple[Any, ...] = ()
    printing: tuple[PrintTest, ...] = ()
    setup: str = ""
    """Statements that the tests in the judge need before them, such as imports and helpers."""

    @property
    def num_tests(self) -> int:
        return len(self.in_judge) + len(self.printing)


def code_tests(tests: Any, setup: str | None = None) -> CodeTests:
    """Each test is a text of statements (`assert f(2) == 4`), or a mapping: `stdin` and `stdout`, or `call`, `args`,
    `kwargs` and `expected`. Raises UserError for anything else."""
    if not isinstance(tests, Sequence) or isinstance(tests, str) or not tests:
        raise UserError(f"`tests` must be a list with at least one test, got {str(cast('Any', tests))[:100]!r}")
    given = list(cast("Sequence[Any]", tests))
    return CodeTests(
        in_judge=tuple(_in_judge(test) for test in given if not _is_printing(test)),
        printing=tuple(_print_test(test) for test in given if _is_printing(test)),
        setup=setup or "",
    )


def failures(sandbox: Sandbox, source: str, tests: CodeTests, limits: Limits) -> list[str | None]:
    """For each test (those in the judge first) None where it holds, or why it does not.

    `limits.seconds` is for all of them together: what has not run by then does not hold.
    """
    found: list[str | None] = []
    seconds = limits.seconds
    if tests.in_judge:
        found, used = judge_functions(sandbox, source, tests.setup, tests.in_judge, limits)
        seconds -= used
    for test in tests.printing:
        if seconds < _LEAST_SECONDS:
            found.append("out of time")
            continue
        run = run_script(sandbox, source, test.stdin, replace(limits, seconds=seconds))
        found.append(_failure(run, test, limits))
        seconds -= run.ending.wall_seconds
    return found


def _failure(run: ScriptRun, test: PrintTest, limits: Limits) -> str | None:
    if run.ending.was_late:
        return "out of time"
    if len(run.stdout) >= limits.file_bytes:
        return f"printed more than {limits.file_bytes} bytes"
    if _lines(run.stdout.decode(errors="replace")) == _lines(test.stdout):
        return None
    if run.last_error_line:
        return run.last_error_line
    if run.ending.exit_code < 0:
        return f"ended by signal {-run.ending.exit_code}"
    return f"printed {run.stdout[:80].decode(errors='replace')!r}"


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _is_printing(test: Any) -> bool:
    return isinstance(test, Mapping) and "stdout" in test


def _print_test(test: Mapping[str, Any]) -> PrintTest:
    stdin, stdout = test.get("stdin", ""), test["stdout"]
    if not isinstance(stdin, str) or not isinstance(stdout, str) or not set(test) <= {"stdin", "stdout"}:
        raise _bad_test(test)
    return PrintTest(stdin=stdin, stdout=stdout)


def _in_judge(test: Any) -> str | dict[str, str]:
    """As the judge takes it."""
    if isinstance(test, str):
        return test
    if not isinstance(test, Mapping):
        raise _bad_test(test)
    call = cast("Mapping[str, Any]", test)
    if not {"call", "expected"} <= set(call) <= {"call", "args", "kwargs", "expected"}:
        raise _bad_test(call)
    try:
        arguments = encode([list(call.get("args") or ()), dict(call.get("kwargs") or {})])
        return {"call": str(call["call"]), "arguments": arguments, "expected": encode(call["expected"])}
    except (NotPlainError, TypeError, ValueError) as error:
        raise _bad_test(call) from error


def _bad_test(test: Any) -> UserError:
    return UserError(
        f"{str(test)[:100]!r} is no test: write statements such as 'assert f(2) == 4', "
        '{"stdin": ..., "stdout": ...}, or {"call": ..., "args": [...], "kwargs": {...}, "expected": ...}'
    )
