"""Starts a program whenever the trainer asks for one, with the files that it sends along.

It never sees what a program reads or writes: those files go straight to the program, and programs leave nothing behind
in the memory that the next one is copied from.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import socket
from contextlib import suppress

import confinement
import kernel

NOBODY = 65534
MOST_FILES = 8
LONGEST_MESSAGE = 65536

TRIAL_LIMITS = {
    "seconds": 10.0,
    "cpu_seconds": 10,
    "memory_bytes": 2**29,
    "processes": 2,
    "open_files": 16,
    "file_bytes": 2**20,
    "folder_bytes": 2**20,
    "folder_files": 16,
}

_OFTEN_IMPORTED = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq",
    "itertools", "json", "math", "operator", "random", "re", "statistics", "string", "threading", "typing",
)  # fmt: skip
"""Loaded once, so that programs need not."""


def become_nobody() -> None:
    """Limits on processes do not bind root, and it owns files; neither is so for this user."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.belong_to_oneself()


def prove_confinement(proc: int) -> None:
    """Confines a process as programs will be and has it try what they must not be able to. OSError where it can."""
    ours, theirs = socket.socketpair()
    found, told = os.pipe()
    if os.fork() == 0:
        confinement.start(TRIAL_LIMITS, [theirs.fileno(), 0, 1, told], proc)
        os.write(2, json.dumps(confinement.weaknesses()).encode())
        os._exit(0)
    os.close(told)
    theirs.close()
    with ours, os.fdopen(found) as answer:
        text = answer.read()
        ending = json.loads(ours.recv(LONGEST_MESSAGE) or "{}")
    if text != "[]":
        raise OSError(errno.EPERM, f"programs cannot be confined: {ending.get('failed') or text or 'no answer'}")


def serve(trainer: socket.socket, proc: int) -> None:
    """Until the trainer is gone: this is process 1 of the box, so all others end with it.

    Comes back in each program's own process.
    """
    for name in _OFTEN_IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    trainer.send(b"{}")
    os.dup2(1, 2)  # from here on no one reads what is written there
    while True:
        message, files, _, _ = socket.recv_fds(trainer, LONGEST_MESSAGE, MOST_FILES)
        if not message:
            os._exit(0)
        if _forked() == 0:
            trainer.detach()
            confinement.start(json.loads(message), files, proc)
            return
        for file in files:
            os.close(file)
        _clear_away_ended()


def _clear_away_ended() -> None:
    """Those who watched over programs. Their time on the CPU is counted as this process's, which a benchmark reads."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _forked() -> int:
    try:
        return os.fork()
    except OSError:
        return -1  # the trainer sees that the leash is let go of
