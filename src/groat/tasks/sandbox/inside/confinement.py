"""One program's own confinement, within the box, and the process that watches over it from outside."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import files
import kernel
import namespaces
import patience
from seccomp import seccomp_filter

INNER_USER = 65534
_APART = kernel.NEW_MOUNTS | kernel.NEW_PROCESSES | kernel.NEW_IPC


def start(limits: dict[str, Any], given: Sequence[int], proc: int) -> None:
    """Comes back in the program's process, confined. The calling process stays outside and watches over it: it ends the
    program when it is late or the trainer lets go of the leash, says how it ended, and ends itself.

    `given`: the leash, then what becomes the program's files 0, 1, 2, ...
    """
    leash = socket.socket(fileno=given[0])
    end: dict[str, Any] = {"failed": "unknown"}
    try:
        namespaces.become_mapped(_APART, INNER_USER, proc)
        first = os.fork()
        if first:
            files.close_all_but(leash.fileno())
            end = _end_of(first, limits["seconds"], leash)
    except OSError as error:
        first, end = -1, {"failed": str(error)}
    if first:
        leash.send(json.dumps(end).encode())
        os._exit(0)
    _become_program(limits, leash.detach(), given[1:], proc)


def weaknesses() -> list[str]:
    """What a confined process can do and must not; asked of a trial process before any program is run."""
    found = {
        "it is not process 1": os.getpid() != 1,
        "it has another user's number": os.getuid() != INNER_USER or os.geteuid() != INNER_USER,
        "it has capabilities": kernel.has_capabilities(),
        "it can gain capabilities": not kernel.can_gain_nothing(),
        "its calls are not filtered": not kernel.has_filter(),
        "it sees /proc": Path("/proc/self").exists(),
        "it can write outside its folder": _works(Path("/trial").mkdir),
        "it can open a socket": _works(socket.socket),
        "it can make namespaces": _works(lambda: kernel.unshare(kernel.NEW_USERS)),
    }
    return [weakness for weakness, is_there in found.items() if is_there]


def _works(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def _end_of(first: int, seconds: float, leash: socket.socket) -> dict[str, Any]:
    """Every process that the program has started ends with its first one: it is process 1 of their namespace."""
    started = time.monotonic()
    handle = os.pidfd_open(first)
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    waiting.register(leash.fileno(), select.POLLIN)
    ready, counted_seconds = patience.wait(waiting, seconds)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    _, status, used = os.wait4(first, 0)
    return {
        "was_late": handle not in ready,
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall_seconds": min(time.monotonic() - started, counted_seconds + patience.SLICE_SECONDS),
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def _become_program(limits: dict[str, Any], leash: int, passed: Sequence[int], proc: int) -> None:
    """From the trusted side to the untrusted one. What goes wrong on the way ends here: nothing runs half confined."""
    try:
        os.close(leash)
        os.setsid()
        namespaces.write(proc, "self/oom_score_adj", "1000")
        files.become(passed)
        _confine(limits, len(passed))
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _confine(limits: dict[str, Any], num_files: int) -> None:
    options = f"mode=700,size={limits['folder_bytes']},nr_inodes={limits['folder_files']}"
    kernel.mount("program", "/tmp", "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, options)
    os.chdir("/tmp")
    os.umask(0o077)
    _limit(resource.RLIMIT_CPU, limits["cpu_seconds"])
    _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_NOFILE, limits["open_files"] + num_files)
    _limit(resource.RLIMIT_NPROC, limits["processes"] + 1)  # the watching process counts too
    for none in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_RTPRIO):
        _limit(none, 0)
    kernel.drop_capabilities()
    kernel.filter_calls(seccomp_filter())


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
