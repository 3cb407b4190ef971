"""Failed reads and writes, said in words: where, what is safe, what to do."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from groat.types import UserError


@contextmanager
def write_errors(folder: Path, what: str, safe: str) -> Generator[None]:
    """Turn what the disk refuses inside the block into a UserError; `safe` is the sentence on what was not lost."""
    try:
        yield
    except (OSError, sqlite3.DatabaseError) as error:
        if is_disk_full(error):
            cause, remedy = "the disk is full", "free some space"
        elif is_read_only(error):
            cause, remedy = "the folder cannot be written to", "make it writable, or use another --output-dir"
        else:
            cause, remedy = str(error), "check the disk"
        raise UserError(f"{folder}: {what} could not be written: {cause}. {safe} What to do: {remedy}.") from error


@contextmanager
def read_errors(path: Path) -> Generator[None]:
    """Turn a database that cannot be read inside the block into a UserError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} cannot be read as the record of a run ({error}).") from error


def is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    if not isinstance(error, sqlite3.Error):
        return False
    # No room for the file beside the database that holds the index of its log.
    no_room_for_index = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE
    return no_room_for_index or _primary_code(error) == sqlite3.SQLITE_FULL


def is_read_only(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}
    return isinstance(error, sqlite3.Error) and _primary_code(error) in {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }


def _primary_code(error: sqlite3.Error) -> int:
    # Extended codes keep the primary one in their low byte; errors raised by Python itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
