"""The two ways to use a program: run it as a script, or let a judge in a second process call its functions."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from groat.tasks.sandbox.limits import Limits
from groat.tasks.sandbox.sandbox import Ending, Sandbox

JUDGE_EXTRA_SECONDS = 1.0
PROGRAM_ENDED = "the program ended"
"""What the judge says where the program's process no longer answers."""
_LONGEST_ERROR = 4000
_FIXED = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """What a script printed: at most `Limits.file_bytes`, the last of which say that it was stopped there."""

    stdout: bytes
    last_error_line: str
    """Empty, or such as `ValueError: no`."""
    ending: Ending


def run_script(sandbox: Sandbox, source: str, stdin: str, limits: Limits) -> ScriptRun:
    """Everything that the program printed has come from the program: compare it, do not believe it."""
    request = {"mode": "script", "source": source}
    with _given(stdin) as entered, _given(json.dumps(request)) as asked, _empty() as printed, _empty() as complained:
        ending = sandbox.start([entered, printed, complained, asked], limits).wait()
        return ScriptRun(
            stdout=os.pread(printed, limits.file_bytes, 0),
            last_error_line=_last_line(complained),
            ending=ending,
        )


def judge_functions(
    sandbox: Sandbox, source: str, setup: str, tests: Sequence[Any], limits: Limits
) -> tuple[list[str | None], float]:
    """For each test None where it holds, or why it does not; and the seconds that this took.

    The judge runs the tests in its own confined process. What it calls is sent to the program's process, and only
    plain data comes back; the program never has the tests or what they expect.
    """
    asked_program = json.dumps({"mode": "functions", "source": source})
    asked_judge = json.dumps({"mode": "judge", "setup": setup, "tests": tests})
    judge_limits = replace(limits, seconds=limits.seconds + JUDGE_EXTRA_SECONDS)
    with ExitStack() as open_files:
        program_request, judge_request = map(open_files.enter_context, (_given(asked_program), _given(asked_judge)))
        verdicts = open_files.enter_context(_empty())
        null = open_files.enter_context(_null())
        with _pipe() as calls, _pipe() as answers:
            program = sandbox.start([null, null, null, program_request, calls[0], answers[1]], limits)
            open_files.callback(program.let_go)
            judge = sandbox.start([null, null, null, judge_request, answers[0], calls[1], verdicts], judge_limits)
        ending = judge.wait()
        reasons = _read_verdicts(verdicts, len(tests), ending)
        if PROGRAM_ENDED in reasons:
            ended = _described(program.wait())
            reasons = [ended if reason == PROGRAM_ENDED else reason for reason in reasons]
        return reasons, ending.wall_seconds


def _read_verdicts(file: int, num_tests: int, ending: Ending) -> list[str | None]:
    """A judge that did not come to its end leaves tests without a verdict, and those do not hold."""
    lines = os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace").split("\n")[:-1]
    reason = "out of time" if ending.was_late else "the judge ended early"
    missing = [reason] * (num_tests - len(lines))
    return [*cast("list[str | None]", [json.loads(line) for line in lines]), *missing]


def _described(ending: Ending) -> str:
    if ending.was_late:
        return "out of time"
    return f"ended by signal {-ending.exit_code}" if ending.exit_code < 0 else PROGRAM_ENDED


def _last_line(file: int) -> str:
    size = os.fstat(file).st_size
    text = os.pread(file, _LONGEST_ERROR, max(size - _LONGEST_ERROR, 0)).decode(errors="replace").strip()
    return text.rpartition("\n")[2][:200]


@contextmanager
def _given(text: str) -> Generator[int]:
    """A file with this text, which no one can change any more."""
    with _empty() as file:
        content = text.encode(errors="surrogatepass")
        while content:
            content = content[os.write(file, content) :]
        os.lseek(file, 0, os.SEEK_SET)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _FIXED)
        yield file


@contextmanager
def _empty() -> Generator[int]:
    """A file in memory."""
    file = os.memfd_create("groat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _null() -> Generator[int]:
    file = os.open(os.devnull, os.O_RDWR)
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _pipe() -> Generator[tuple[int, int]]:
    """The end to read from, the end to write to."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)
