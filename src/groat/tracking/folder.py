"""The folder of a run: what lies where, and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from groat.tracking.disk import write_errors
from groat.types import UserError


@dataclass(frozen=True)
class RunFolder:
    """`config.yaml` and `plan.json`, `run.sqlite`, `checkpoints/`, `adapter/`, and at the end `summary.json`."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A folder for a new run; UserError where there is a run already or nothing can be written."""
        folder = cls(path)
        if folder.config_path.exists() or folder.store_path.exists() or any(folder.checkpoints.glob("*")):
            raise UserError(
                f"{path} already holds a run. Go on with it: groat resume {path}. "
                "Or start a new one elsewhere: --output-dir ANOTHER/FOLDER"
            )
        with write_errors(path, "the folder of the run", "Nothing was changed."):
            folder.checkpoints.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of a run that was started before."""
        folder = cls(path)
        if not folder.config_path.is_file():
            reason = "it has no config.yaml" if path.is_dir() else "there is no such folder"
            raise UserError(f"{path} is not the folder of a run: {reason}. See which there are with: groat runs")
        return folder

    @property
    def config_path(self) -> Path:
        """What was asked."""
        return self.path / "config.yaml"

    @property
    def plan_path(self) -> Path:
        """What was decided."""
        return self.path / "plan.json"

    @property
    def sensitivities_path(self) -> Path:
        """What dynamically quantized weights are rounded by; only such runs have it."""
        return self.path / "sensitivities.json"

    @property
    def store_path(self) -> Path:
        return self.path / "run.sqlite"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter, in PEFT's format."""
        return self.path / "adapter"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """How the run ended. A run with a summary counts as finished, unless it says `"finished": false`."""
        write_atomically(self.summary_path, (json.dumps(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any] | None:
        """None where the run has not ended by itself."""
        try:
            return json.loads(self.summary_path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(f"{self.summary_path} is damaged ({error}): delete it, nothing depends on it.") from error


def write_atomically(path: Path, data: bytes) -> None:
    """The file holds the old bytes or the new ones at every moment, through kill -9 and power cuts."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_errors(path.parent, path.name, f"What {path.name} held before is untouched."):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def numbered_output_dir(pattern: str, model: str, task: str) -> Path:
    """`runs/{name}` with {name} as model, task and the first number not taken."""
    if "{name}" not in pattern:
        return Path(pattern)
    stem = f"{_plain_name(model)}-{_plain_name(task)}"
    paths = (Path(pattern.replace("{name}", f"{stem}-{number}")) for number in itertools.count(1))
    return next(path for path in paths if not path.exists())


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain_name(name: str) -> str:
    """The last part of a path or hub id, with letters, digits, dots, dashes and underscores only."""
    last = re.sub(r"\.(gguf|jsonl|csv|parquet)$", "", PurePath(name).name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "run"
