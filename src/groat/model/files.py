"""Small reads and writes that every model file goes through: bounded reading, clear errors, nothing half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from groat.types import UserError

GGUF_LINK = "model.gguf"
"""Where the folder made for a GGUF file has its weights: a link to that file."""
MAX_JSON_BYTES = 256 * 2**20
"""The largest tokenizer.json in use is about 40 MB."""


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """The file as UTF-8 (a byte order mark is dropped), or a UserError that names it."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path} has {size} bytes; at most {max_bytes} are read. It is not the file it should be.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check that the file is complete.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Get it again.") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or a UserError that names the file and the place in it."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). The file is damaged: get it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__} where an object is expected. Get it again.")
    return cast(dict[str, Any], value)


def read_json_object_if_there(path: Path) -> dict[str, Any]:
    """Like read_json_object; a file that does not exist reads as an empty object."""
    return read_json_object(path) if path.exists() else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Written and flushed to disk; not atomic, for folders that are renamed as a whole."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in the place of `path` in one step."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        os.close(handle)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes files that only the owner reads
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder_to_disk(path.parent)


def flush_folder_to_disk(folder: Path) -> None:
    """So that names created or renamed in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
