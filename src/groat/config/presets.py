"""The recipes that ship inside the package."""

from __future__ import annotations

from pathlib import Path

from groat.config.load import read_yaml
from groat.config.tree import RunConfig

_FOLDER = Path(__file__).parent / "preset_files"


def preset_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_preset(name: str) -> RunConfig:
    assert name in preset_names(), name
    return read_yaml(_FOLDER / f"{name}.yaml")
