"""To Trackio: a local database, `trackio show`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from groat.tracking.bridges.base import BridgedRun, flat


class TrackioBridge:
    """One Trackio run for a run, found again by its name where it goes on."""

    def __init__(self) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        self._run: Any = None

    def begin(self, run: BridgedRun) -> None:
        config = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in flat(run.config).items()
        }
        self._run = self._trackio.init(project=run.project, name=run.name, config=config, resume="allow", embed=False)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def end(self, *, finished: bool) -> None:
        del finished
        self._run.finish()
