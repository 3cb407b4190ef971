"""One process trains in a run folder at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from groat.tracking.disk import write_errors
from groat.types import UserError

_NUM_TRIES = 5
_WAIT_SECONDS = 0.05


class RunLock:
    """Held for the length of a `with` block; the system lets go of it when the process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with write_errors(self._folder, "run.lock", "Nothing was changed."):
            descriptor = os.open(self._folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _lock(descriptor):
                holder = _pid(descriptor)
                os.close(descriptor)
                raise UserError(_refusal(self._folder, holder))
            self._descriptor = descriptor
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._descriptor is not None
        # The file stays: removing it would let two processes each lock a file of that name.
        os.close(self._descriptor)
        self._descriptor = None


def lock_holder(folder: Path) -> int | None:
    """The process that trains in this folder now: its id (0 if it has not written it yet), None if there is none."""
    try:
        descriptor = os.open(folder / "run.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        return _pid(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    # Tried again: `lock_holder`, asking whether a run goes on, holds the lock for an instant.
    for attempt in range(_NUM_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if attempt < _NUM_TRIES - 1:
                time.sleep(_WAIT_SECONDS)
    return False


def _pid(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdecimal() else 0


def _refusal(folder: Path, holder: int) -> str:
    return (
        f"{folder}: process {holder or '(unknown)'} already trains in this folder. Wait for it or stop it "
        f"(kill -INT {holder or 'PID'}: it finishes its step and saves), or choose another --output-dir."
    )
