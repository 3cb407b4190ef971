"""To TensorBoard: event files in the run's folder, `tensorboard --logdir runs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from groat.tracking.bridges.base import BridgedRun, flat


class TensorBoardBridge:
    """A scalar for every figure, and the config as text."""

    def __init__(self) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._make: Any = SummaryWriter
        self._writer: Any = None

    def begin(self, run: BridgedRun) -> None:
        # Steps that an earlier process logged, and this one trains again, are hidden.
        purge = run.first_step + 1 if run.first_step else None
        self._writer = self._make(str(run.folder / "tensorboard"), purge_step=purge)
        lines = [f"    {name}: {json.dumps(value, default=str)}" for name, value in flat(run.config).items()]
        self._writer.add_text("config", "\n".join(lines), run.first_step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, *, finished: bool) -> None:
        del finished
        self._writer.close()
