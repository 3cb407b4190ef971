"""What a worker process runs: one function, called again and again with arguments that come as lines of JSON.

Run by its path, with nothing but the standard library, so that limits hold before anything else is imported. Standard
input and output are the channel; whatever the function prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any


def main() -> None:
    requests, replies = _channel()
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests, lines), daemon=True).start()
    setup = json.loads(lines.get())
    sys.path[:] = setup["path"]
    try:
        function = _loaded(setup["target"])
    except BaseException as error:
        _send(replies, {"failed": _described(error)})
        return
    _limit(setup)
    _send(replies, {"ready": True})
    while True:
        arguments = json.loads(lines.get())
        _allow_cpu_seconds(setup["cpu_seconds"])
        _send(replies, _reply(function, arguments))


def _reply(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        reply = {"returned": function(**arguments)}
        json.dumps(reply)
    except BaseException as error:  # SystemExit too
        return {"raised": _described(error)}
    return reply


def _channel() -> tuple[IO[bytes], IO[bytes]]:
    """Private copies of standard input and output, which then lead nowhere and to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _read(requests: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    """When the other side is gone, so is this process."""
    while line := requests.readline():
        lines.put(line)
    os._exit(0)


def _send(replies: IO[bytes], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _loaded(target: str) -> Callable[..., Any]:
    """`package.module:function`"""
    module, _, name = target.rpartition(":")
    return getattr(importlib.import_module(module), name)


def _limit(setup: dict[str, Any]) -> None:
    """What the function needs is imported by now. Limits that the system does not know are left out."""
    _set_limit("RLIMIT_CORE", 0)
    if setup["memory_bytes"] is not None:
        _set_limit("RLIMIT_AS", setup["memory_bytes"])
    if setup["writes_nothing"]:
        _set_limit("RLIMIT_FSIZE", 0)
        _set_limit("RLIMIT_NPROC", 0)  # no new processes or threads; does not bind root
        _set_limit("RLIMIT_NOFILE", 64)


def _set_limit(name: str, value: int) -> None:
    limit = getattr(resource, name, None)
    if limit is not None:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value, value) if hard == resource.RLIM_INFINITY or hard > value else (hard, hard))


def _allow_cpu_seconds(seconds: float | None) -> None:
    """A call that nobody is left to stop ends by itself: SIGXCPU ends the process, whatever code it is in."""
    if seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, hard))


def _described(error: BaseException) -> str:
    """Such as: ZeroDivisionError: division by zero (rewards.py, line 12)."""
    last_line = traceback.format_exception_only(error)[-1].strip()[:300]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{last_line} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else last_line


if __name__ == "__main__":
    main()
