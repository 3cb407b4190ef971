"""Checkpoints, complete or absent: a folder is written aside, synced, described by a manifest, and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from groat.tracking.disk import write_errors

_STATE, _PROGRESS, _MANIFEST = "state.safetensors", "progress.json", "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    policy_version: int
    train_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a run goes on from."""

    progress: Progress
    tensors: Mapping[str, torch.Tensor]


def save_checkpoint(
    folder: Path, progress: Progress, tensors: Mapping[str, torch.Tensor], keep: int, flush: Callable[[], None]
) -> Path:
    """Write `folder/step-N`, then drop all but the newest `keep`. `flush` syncs what it builds on."""
    target = folder / f"step-{progress.step:08d}"
    aside = folder / f".{target.name}.{os.getpid()}.tmp"
    with write_errors(folder, f"the checkpoint of step {progress.step}", "Older checkpoints are untouched."):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside / _STATE)
            (aside / _PROGRESS).write_text(json.dumps(asdict(progress)))
            manifest = {name: _fingerprint(aside / name) for name in (_STATE, _PROGRESS)}
            (aside / _MANIFEST).write_text(json.dumps(manifest))
            for path in (*aside.iterdir(), aside):
                _sync(path)
            flush()
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
            _sync(folder)
        except SafetensorError as error:
            # safetensors wraps the operating system's error; ENOSPC is what it nearly always is.
            raise OSError(28, str(error)) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    for old in sorted(_step_folders(folder))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest complete checkpoint; damaged ones are passed over with a warning. None: start from the beginning."""
    for path in sorted(_step_folders(folder), reverse=True):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warn(f"checkpoint {path} is damaged and was passed over: {error}")
    return None


def _step_folders(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("step-*") if path.is_dir() and not path.is_symlink())


def _read(path: Path) -> Checkpoint:
    manifest = json.loads((path / _MANIFEST).read_text())
    if set(manifest) != {_STATE, _PROGRESS}:
        raise ValueError(f"its manifest names {sorted(manifest)}")
    for name, expected in manifest.items():
        if (path / name).is_symlink() or _fingerprint(path / name) != expected:
            raise ValueError(f"{name} is not what was written")
    progress = Progress(**json.loads((path / _PROGRESS).read_text()))
    return Checkpoint(progress=progress, tensors=load_file(path / _STATE))


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
