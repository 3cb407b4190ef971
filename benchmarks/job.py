"""What a side is asked to do, as the JSON file that its process reads. The peers read the same file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.work import Work
from groat.types import Compute, StorageKind

_NUMBERS = ("num_measured", "num_warm_up", "longest_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroatSettings:
    """How groat is to do it; peers have nothing alike."""

    model: str
    storage: StorageKind | None = None
    compute: Compute | None = None
    """None, of this and of `storage`: what is fastest on the machine."""
    budget: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work to do, and how often."""

    work: Work
    groat: GroatSettings
    num_measured: int
    """Times that a process does the work when it is warm."""
    num_warm_up: int
    """Whole steps before that. Rollouts are warmed up by a few tokens."""
    longest_tokens: int
    """Of a prompt and its completion together."""

    def write(self, path: Path) -> None:
        """One flat object: a peer takes what it knows."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        path.write_text(json.dumps(asdict(self.work) | asdict(self.groat) | numbers))

    @classmethod
    def read(cls, path: Path) -> Job:
        asked = json.loads(path.read_text())
        asked["questions"] = tuple(asked["questions"])
        work = Work(**{field.name: asked[field.name] for field in fields(Work)})
        groat = GroatSettings(**{field.name: asked[field.name] for field in fields(GroatSettings)})
        return cls(work=work, groat=groat, **{name: asked[name] for name in _NUMBERS})
