"""What worker processes are made to run by the tests: well behaved, and not."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def behave(way: str, number: int = 0):
    return WAYS[way](number)


def _print(number: int):
    print("x" * number)  # noqa: T201
    os.write(1, b'{"returned": 666}\n')
    return number


def _allocate(number: int):
    return len(bytearray(number))


def _ignore_signals(_: int):
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(name, signal.SIG_IGN)
    while True:
        time.sleep(1)


def _write(number: int):
    Path(f"/tmp/groat-worker-test-{os.getpid()}").write_bytes(b"x" * number)


def _leave_a_child(_: int):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    Path(os.environ["GROAT_TEST_PID_FILE"]).write_text(str(child.pid))
    time.sleep(1000)


WAYS = {
    "double": lambda number: 2 * number,
    "count": lambda number: COUNTS.append(number) or len(COUNTS),
    "raise": lambda number: 1 // number,
    "exit": lambda number: sys.exit(number),
    "die": lambda number: os._exit(number),
    "crash": lambda number: os.kill(os.getpid(), signal.SIGSEGV),
    "sleep": lambda number: time.sleep(number),
    "multiply": lambda number: 9 ** (9**number),
    "recurse": lambda number: WAYS["recurse"](number),
    "object": lambda number: object(),
    "environment": lambda number: sorted(os.environ),
    "limits": lambda number: [resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0]],
    "standard input": lambda number: sys.stdin.read(),
    "nofile": lambda number: len([socket.socket() for _ in range(number)]),
    "print": _print,
    "allocate": _allocate,
    "ignore signals": _ignore_signals,
    "write": _write,
    "leave a child": _leave_a_child,
}
COUNTS: list[int] = []
