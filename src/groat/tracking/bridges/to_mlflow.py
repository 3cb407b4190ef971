"""To MLflow, wherever its own settings point (MLFLOW_TRACKING_URI; a local store without)."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping
from typing import Any

from groat.tracking.bridges.base import BridgedRun, flat

_PARAMS_AT_ONCE, _LONGEST_PARAM = 100, 500
"""What MLflow's servers take."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")


class MLflowBridge:
    """One MLflow run for a run, also where it goes on; the project is its experiment."""

    def __init__(self) -> None:
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._tracking: Any = importlib.import_module("mlflow.tracking")
        self._client: Any = None
        self._run_id = ""

    def begin(self, run: BridgedRun) -> None:
        self._client = self._tracking.MlflowClient()
        self._run_id = run.remembered("mlflow") or ""
        if self._run_id:
            self._client.update_run(self._run_id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(run.project)
        experiment_id = self._client.create_experiment(run.project) if experiment is None else experiment.experiment_id
        self._run_id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        run.remember("mlflow", self._run_id)
        params = [self._entities.Param(name, str(value)[:_LONGEST_PARAM]) for name, value in flat(run.config).items()]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_AT_ONCE])

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [
            self._entities.Metric(_NOT_IN_NAMES.sub("_", name), value, now, step) for name, value in figures.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def end(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")
