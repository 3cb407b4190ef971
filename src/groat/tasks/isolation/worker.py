"""One worker process: started when it is first needed, called with a time limit, killed when it overruns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groat.tasks.reward_calls import Outcome, Raised, Returned, TimedOut

START_SECONDS = 300.0
"""What starting Python and importing the target may take."""
LARGEST_REPLY_BYTES = 64 * 2**20
_REPLIES = {"returned", "raised", "ready", "failed"}

Launcher = Callable[[Sequence[str]], Sequence[str]]
"""Turns the command of a worker into the one that is run, such as the same command inside a sandbox.

The command talks over standard input and output, and reads Python's and groat's own files.
"""


class WorkerError(Exception):
    """What the function in the worker raised, or how its process ended, as a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker runs: `package.module:function`.

    `is_trusted`: it is the user's own code, which sees the environment variables and may write files. Anything that
    judges what a model wrote is not.
    """

    name: str
    is_trusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For each call: wall-clock seconds, and bytes of address space (None: not limited)."""

    seconds: float
    memory_bytes: int | None = None


class Worker:
    """Calls the target with JSON arguments. After a TimedOut or a death the next call starts a new process."""

    def __init__(self, target: Target, limits: Limits, launcher: Launcher | None = None) -> None:
        self._target = target
        self._limits = limits
        self._launcher = launcher
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, arguments: Mapping[str, Any]) -> Outcome:
        """WorkerError is raised, not returned, where the process cannot be started at all."""
        process = self._process or self._started()
        outcome = self._exchange(process, arguments, self._limits.seconds)
        if not isinstance(outcome, Returned):
            self.close()
            return outcome
        reply = outcome.value
        return Returned(reply["returned"]) if "returned" in reply else Raised(WorkerError(f"raised {reply['raised']}"))

    def close(self) -> None:
        """Kills the process, and those it started in its process group."""
        if self._process is not None:
            _kill(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                _close_quietly(pipe)
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-s", "-P", "-B", str(Path(__file__).with_name("child.py"))]
        self._process = process = subprocess.Popen(
            command if self._launcher is None else list(self._launcher(command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if self._target.is_trusted else subprocess.DEVNULL,
            env=None if self._target.is_trusted else _SPARSE_ENVIRONMENT,
            start_new_session=True,
        )
        outcome = self._exchange(process, self._setup(), START_SECONDS)
        if not isinstance(outcome, Returned) or "failed" in outcome.value:
            self.close()
            why = outcome.value["failed"] if isinstance(outcome, Returned) else _told(outcome)
            raise WorkerError(f"cannot start a worker process for {self._target.name}: {why}")
        return process

    def _setup(self) -> dict[str, Any]:
        return {
            "path": [os.path.abspath(place) for place in sys.path],  # noqa: PTH100  # "" is the folder we are in
            "target": self._target.name,
            "memory_bytes": self._limits.memory_bytes,
            "cpu_seconds": self._limits.seconds,
            "writes_nothing": not self._target.is_trusted,
        }

    def _exchange(self, process: subprocess.Popen[bytes], message: Mapping[str, Any], seconds: float) -> Outcome:
        assert process.stdin is not None
        assert process.stdout is not None
        line = json.dumps(message).encode() + b"\n"
        is_late = threading.Event()
        alarm = threading.Timer(seconds, lambda: (is_late.set(), _kill(process)))
        alarm.daemon = True
        alarm.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline(LARGEST_REPLY_BYTES)
        except (BrokenPipeError, OSError):
            reply = b""
        finally:
            alarm.cancel()
            alarm.join()  # either it has set is_late by now or it never will
        if is_late.is_set():
            return TimedOut()
        return _parsed(reply) if reply.endswith(b"\n") else Raised(WorkerError(_ending(process)))


def _parsed(reply: bytes) -> Outcome:
    try:
        message = json.loads(reply)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or len(message) != 1 or not _REPLIES & set(message):
        return Raised(WorkerError("sent what is no reply"))
    return Returned(message)


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        return "closed its channel"
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"ended its process (exit status {status})"


def _told(outcome: Outcome) -> str:
    return str(outcome.error) if isinstance(outcome, Raised) else f"it takes longer than {START_SECONDS:g} s"


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()


def _close_quietly(pipe: Any) -> None:
    with suppress(OSError):  # what was still to be written has no reader any more
        pipe.close()


# One thread each: what is judged is small, and the cores are the trainer's. The order of sets is the same in all of
# them: reasoning-gym's problems depend on it.
_SPARSE_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
