"""Checkpoints, complete or absent: a folder is written aside, synced, described by a manifest, and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from groat.tracking.disk import write_errors
from groat.tracking.folder import sync

_STATE, _PROGRESS, _MANIFEST = "state.safetensors", "progress.json", "manifest.json"
_LARGEST_JSON = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    """0 or less: of the cold start, whose last step is 0."""
    policy_version: int
    train_seconds: float
    peak_bytes: int
    microbatch_tokens: int | None = None
    """The plan's, or what the guard has made of it: where a step is cut decides the last bits of its gradient."""
    primed_steps: int = 0
    """Steps of the cold start that are done."""

    @property
    def name(self) -> str:
        """Of its folder: in the order of time."""
        return f"step-{self.step:08d}" if self.step > 0 else f"prime-{self.primed_steps:08d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a run goes on from."""

    progress: Progress
    tensors: Mapping[str, torch.Tensor]


def save_checkpoint(
    folder: Path, progress: Progress, tensors: Mapping[str, torch.Tensor], keep: int, flush: Callable[[], None]
) -> Path:
    """Write `folder/step-N` or `prime-N`, then drop all but the newest `keep`. `flush` syncs what it builds on.

    One process at a time: what a killed save has left half-written is removed.
    """
    target = folder / progress.name
    aside = folder / f".{target.name}.{os.getpid()}.tmp"
    with write_errors(folder, f"the checkpoint of step {progress.step}", "Older checkpoints are untouched."):
        try:
            for leftover in folder.glob(".*.tmp"):
                _remove(leftover)
            aside.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / _STATE)
            (aside / _PROGRESS).write_text(json.dumps(asdict(progress)))
            manifest = {name: _fingerprint(aside / name) for name in (_STATE, _PROGRESS)}
            (aside / _MANIFEST).write_text(json.dumps(manifest))
            for path in (*aside.iterdir(), aside):
                sync(path)
            flush()
            _remove(target)
            aside.rename(target)
            sync(folder)
        except SafetensorError as error:
            raise _os_error(error) from error
        finally:
            _remove(aside)
    for old in _oldest_first(folder)[:-keep]:
        _remove(old)
    return target


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint. None: start from the beginning.

    Damaged ones are passed over with a warning, and renamed, so that they never count as one of those to keep.
    """
    for path in reversed(_oldest_first(folder)):
        try:
            return _read(path)
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError) as error:
            with suppress(OSError):
                path.rename(folder / f"damaged-{path.name}")
            warn(f"checkpoint {path} is damaged and was passed over: {error}")
    return None


def _oldest_first(folder: Path) -> list[Path]:
    return sorted((*folder.glob("prime-*"), *folder.glob("step-*")))


def _read(path: Path) -> Checkpoint:
    if path.is_symlink():
        raise ValueError("it is a symlink")
    manifest = _read_small_json(path / _MANIFEST)
    if set(manifest) != {_STATE, _PROGRESS}:
        raise ValueError(f"its manifest names {', '.join(sorted(manifest)) or 'nothing'}")
    for name, expected in manifest.items():
        if (path / name).is_symlink() or _fingerprint(path / name) != expected:
            raise ValueError(f"{name} is not what was written")
    progress = Progress(**_read_small_json(path / _PROGRESS))
    return Checkpoint(progress=progress, tensors=load_file(path / _STATE))


def _read_small_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes")
    value: Any = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return cast("dict[str, Any]", value)


def _remove(path: Path) -> None:
    """A folder, or whatever else goes by that name; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _os_error(error: SafetensorError) -> OSError:
    """The operating system's error that safetensors has wrapped."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else errno.EIO, str(error))


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
