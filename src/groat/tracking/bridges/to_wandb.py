"""To Weights & Biases; where and whether it sends anything, its own settings say (`wandb login`, WANDB_MODE)."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Mapping
from typing import Any

from groat.tracking.bridges.base import BridgedRun


class WandbBridge:
    """One W&B run for a run, also where it goes on."""

    def __init__(self) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        self._run: Any = None

    def begin(self, run: BridgedRun) -> None:
        run_id = run.remembered("wandb")
        if run_id is None:
            run_id = uuid.uuid4().hex[:12]
            run.remember("wandb", run_id)
        self._run = self._wandb.init(
            project=run.project,
            name=run.name,
            id=run_id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def end(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
