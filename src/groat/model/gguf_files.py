"""A GGUF file's config and tokenizer become a folder in the Hugging Face layout, once, in the cache.

The weights stay where they are: the folder has a link to the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from groat.caches import cache_folder
from groat.model.families import spec_from_hf_config
from groat.model.files import GGUF_LINK, flush_folder_to_disk, write_json
from groat.model.gguf_config import hf_config_from_gguf
from groat.model.gguf_names import check_can_dequantize, named_tensors
from groat.model.gguf_reader import GgufFile, open_gguf
from groat.model.gguf_tokenizer import eos_token_ids, tokenizer_config_from_gguf, tokenizer_from_gguf
from groat.types import UserError

log = logging.getLogger("groat")

_CONVERTER_VERSION = 2
"""Raised when the converter changes, so that old cache folders are left alone."""
_STALE_SECONDS = 3600


def folder_from_gguf(path: Path) -> Path:
    """The converted folder; taken from the cache where it is there."""
    path = path.resolve()
    folder = converted_models() / _key(path)
    if (folder / "config.json").exists():
        return folder
    log.info("converting %s into %s (once)", path.name, folder)
    try:
        _write_atomically(path, folder)
    except OSError as error:
        raise UserError(
            f"{path} could not be converted into {folder}: {error.strerror or error}. Make room or set XDG_CACHE_HOME "
            "to a folder that can be written."
        ) from error
    return folder


def converted_models() -> Path:
    """The cache folder that converted models are kept in."""
    return cache_folder("gguf")


def _key(path: Path) -> str:
    """Changes with the file's place, size, time, first and last bytes, and with our converter."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(2**16)
            file.seek(max(0, status.st_size - 2**16))
            tail = file.read(2**16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the file.") from error
    identity = f"{_CONVERTER_VERSION} {path} {status.st_size} {status.st_mtime_ns} ".encode()
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:60]
    return f"{stem}-{hashlib.sha256(identity + head + tail).hexdigest()[:16]}"


def _write_atomically(path: Path, folder: Path) -> None:
    """Fill a folder beside `folder` and rename it. Of two processes at once, the second one's work is thrown away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with open_gguf(path) as gguf:
            _convert(gguf, temporary)
        flush_folder_to_disk(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():
                raise
        flush_folder_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """What a killed conversion left behind."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if leftover.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _convert(gguf: GgufFile, folder: Path) -> None:
    config = hf_config_from_gguf(gguf)
    spec_from_hf_config(config, str(gguf.path))  # refuse a model we cannot run before its tokenizer is made
    for name, stored in named_tensors(gguf).items():
        check_can_dequantize(name, stored)
    tokenizer_from_gguf(gguf).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config_from_gguf(gguf))
    write_json(folder / "generation_config.json", {"eos_token_id": eos_token_ids(gguf)})
    (folder / GGUF_LINK).symlink_to(gguf.path)
    write_json(folder / "config.json", config)
