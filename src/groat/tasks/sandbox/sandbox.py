"""Running programs that nobody has read: `Sandbox` starts one process for all of them, and that one confines each."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from groat.tasks.sandbox.box import ENVIRONMENT, Box, Builder, available_builders
from groat.tasks.sandbox.inside.patience import wait
from groat.tasks.sandbox.limits import Limits
from groat.types import UserError

START_SECONDS = 20.0
END_SECONDS = 1.0
GRACE_SECONDS = 10.0
"""What the process that watches over a program gets beyond the program's time."""


class SandboxError(UserError):
    """No isolation can be had on this machine, or the sandbox itself broke. Programs were not run unguarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a program ended. Its exit code is its own claim."""

    exit_code: int
    """-N: ended by signal N."""
    was_late: bool
    wall_seconds: float
    """Without those in which the machine stood still."""
    cpu_seconds: float
    """Of its first process."""


class Sandbox:
    """Starts when it is first used, and again after it broke. Threads may share it.

    Holds a Python process of some 10 MiB. A program holds at most what its limits say.
    """

    def __init__(self, builder: Builder | None = None) -> None:
        self._builder: Builder | None = builder
        self._lock = threading.Lock()
        self._process: _BoxProcess | None = None

    def check(self) -> Builder:
        """What builds the box here. Raises SandboxError where nothing can."""
        return self._running().builder

    def start(self, files: Sequence[int], limits: Limits) -> Leash:
        """Starts a program whose files 0, 1, 2, ... are these; they stay open here too."""
        process = self._running()
        ours, theirs = socket.socketpair()
        with theirs:
            process.send(json.dumps(limits.resolved()).encode(), [theirs.fileno(), *files])
        return Leash(ours, limits.seconds + GRACE_SECONDS, process)

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.end()
                self._process = None

    def _running(self) -> _BoxProcess:
        with self._lock:
            if self._process is None or self._process.is_broken:
                self._process = None
                self._process = _started(self._builder)
            return self._process


class Leash:
    """A running program. Letting go of it ends the program."""

    def __init__(self, channel: socket.socket, seconds: float, process: _BoxProcess) -> None:
        self._channel = channel
        self._seconds = seconds
        self._process = process

    def wait(self) -> Ending:
        """Until the program and all that it started have ended."""
        with self._channel:
            text = _received(self._channel, self._seconds)
        if not text:
            # The watching process is gone or stuck: nothing is known about the program, so the whole box ends.
            self._process.end()
            raise SandboxError("the sandbox's own process ended or hung (was it out of memory?)")
        ending = json.loads(text)
        if "failed" in ending:
            raise SandboxError(f"the sandbox could not start a program: {ending['failed']}")
        return Ending(**ending)

    def let_go(self) -> None:
        """The program ends, and no one waits for it."""
        self._channel.close()


class _BoxProcess:
    """The process around which the box is built, and our socket to it."""

    def __init__(self, box: Box) -> None:
        self.builder: Builder = box.builder
        self.is_broken = False
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._process = subprocess.Popen(
                box.command(theirs.fileno(), proc),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=ENVIRONMENT,
                pass_fds=(theirs.fileno(), proc),
                start_new_session=True,  # Ctrl-C is for the trainer, which then lets go
            )
        finally:
            theirs.close()
            os.close(proc)
        weakref.finalize(self, _end, self._socket, self._process)

    def first_message(self) -> dict[str, Any]:
        text = _received(self._socket, START_SECONDS)
        if text:
            return json.loads(text)
        self._process.kill()
        assert self._process.stderr is not None
        said = self._process.stderr.read(2000).decode(errors="replace").strip()
        self.end()
        return {"refused": said or "it ended without a word"}

    def send(self, message: bytes, files: Sequence[int]) -> None:
        with self._lock:
            try:
                socket.send_fds(self._socket, [message], files)
            except OSError as error:
                self.is_broken = True
                raise SandboxError(f"the sandbox's own process is gone: {error}") from error

    def end(self) -> None:
        self.is_broken = True
        _end(self._socket, self._process)


def _started(builder: Builder | None) -> _BoxProcess:
    refusals: list[str] = []
    names: list[Builder] = available_builders() if builder is None else [builder]
    for name in names:
        try:
            process = _BoxProcess(Box(builder=name))
        except OSError as error:
            refusals.append(f"{name}: {error}")
            continue
        message = process.first_message()
        if "refused" not in message:
            return process
        refusals.append(f"{name}: {message['refused']}")
    raise SandboxError(
        f"programs that a model wrote cannot be run safely here, so they are not run at all ({'; '.join(refusals)}). "
        "Needed is Linux 5.12 or newer with user namespaces for this user (sysctl user.max_user_namespaces above 0; on "
        "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), also inside containers: docker run "
        "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"
    )


def _received(channel: socket.socket, seconds: float) -> bytes:
    """The next message; empty when the other side is gone or takes too long."""
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    try:
        ready, _ = wait(waiting, seconds)
        return channel.recv(65536) if ready else b""
    except OSError:
        return b""


def _end(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """Everything in the box ends with its first process, which ends with this one or with the socket."""
    channel.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
