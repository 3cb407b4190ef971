"""What a bridge is, and what it is told of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from groat.tracking.folder import write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgedRun:
    """The run as another tracker is to show it."""

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any]
    """Everything that was asked for, as a tree of plain values."""
    first_step: int
    """Steps done already: above 0 where a run goes on."""

    def remembered(self, tracker: str) -> str | None:
        """The id under which the tracker knows this run, from before it went on."""
        path = self._id_path(tracker)
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def remember(self, tracker: str, run_id: str) -> None:
        write_atomically(self._id_path(tracker), f"{run_id}\n".encode())

    def _id_path(self, tracker: str) -> Path:
        return self.folder / f"{tracker}-run-id"


class Bridge(Protocol):
    """Tells one tracker. What it imports, it imports when it is made, so that the memory plan counts it."""

    def begin(self, run: BridgedRun) -> None:
        """Before the first step that this process trains."""
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, named `train/...` or `eval/...`."""
        ...

    def end(self, *, finished: bool) -> None:
        """Once, after `begin`; `finished` is False where the run was stopped or failed."""
        ...


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a config by dotted paths."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves
