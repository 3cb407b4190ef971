"""All bridges of a run, told as one. One that fails is told about once, and then left alone."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from groat.tracking.bridges.base import Bridge, BridgedRun
from groat.types import UserError

logger = logging.getLogger("groat")

_CLASSES = {
    "mlflow": "MLflowBridge",
    "tensorboard": "TensorBoardBridge",
    "trackio": "TrackioBridge",
    "wandb": "WandbBridge",
}
"""By a tracker's name, which is also that of its package, of its extra and of its module here."""


def check_trackers(names: Sequence[str]) -> None:
    """UserError for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f'track.report_to has {name}, but {name} is not installed: pip install "groat[{name}]"')


class Bridges:
    """Nothing where no tracker is named."""

    def __init__(self, names: Sequence[str]) -> None:
        """Imports what the trackers need."""
        self._bridges: dict[str, Bridge] = {}
        for name in names:
            self._tell(name, lambda name=name: self._bridges.update({name: _bridge(name)}))
        self._is_begun = False

    def begin(self, run: BridgedRun) -> None:
        self._is_begun = True
        for name, bridge in list(self._bridges.items()):
            self._tell(name, lambda bridge=bridge: bridge.begin(run))

    def log(self, step: int, figures: Mapping[str, float], section: str = "train") -> None:
        """Figures by their own names; the tracker sees `section/name`, as with transformers."""
        named = {f"{section}/{name}": value for name, value in figures.items()}
        for name, bridge in list(self._bridges.items()):
            self._tell(name, lambda bridge=bridge: bridge.log(step, named))

    def end(self, *, finished: bool) -> None:
        bridges, self._bridges = self._bridges, {}
        for name, bridge in bridges.items() if self._is_begun else ():
            self._tell(name, lambda bridge=bridge: bridge.end(finished=finished))

    def _tell(self, name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever another library raises, the run goes on
            logger.warning(
                "%s failed (%s: %s); this run no longer reports to it, and is recorded in its own folder as ever",
                name,
                type(error).__name__,
                str(error)[:300],
            )
            failed = self._bridges.pop(name, None)
            if failed is not None:
                with suppress(Exception):
                    failed.end(finished=False)


def _bridge(name: str) -> Bridge:
    return getattr(importlib.import_module(f"groat.tracking.bridges.to_{name}"), _CLASSES[name])()
