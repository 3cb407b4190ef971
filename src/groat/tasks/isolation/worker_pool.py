"""Several workers for one function, so that many short calls go on side by side and a slow one holds up few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import Any

from groat.tasks.isolation.worker import START_SECONDS, Launcher, Limits, Target, Worker
from groat.tasks.reward_calls import Outcome

REPLACING_SECONDS = 5.0
"""What starting a new process after one was killed is counted as, on a busy machine."""


class WorkerPool:
    """`num_workers` processes at most; each is started at its first call, about 70 MiB for a checker with sympy."""

    def __init__(self, target: Target, limits: Limits, num_workers: int = 2, launcher: Launcher | None = None) -> None:
        assert num_workers >= 1
        self.limits = limits
        self._workers = [Worker(target, limits, launcher) for _ in range(num_workers)]
        self._idle: LifoQueue[Worker] = LifoQueue()  # the one used last comes first: a single call starts one process
        for worker in self._workers:
            self._idle.put(worker)

    def call_all(self, calls: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """The outcome of each call, in the order of the calls."""
        if len(calls) <= 1:
            return [self._call(arguments) for arguments in calls]
        with ThreadPoolExecutor(min(len(self._workers), len(calls)), "groat workers") as threads:
            return list(threads.map(self._call, calls))

    def most_seconds(self, num_calls: int) -> float:
        """How long that many calls can take, if every one of them overruns and a process is started for each."""
        rounds = math.ceil(num_calls / len(self._workers))
        return START_SECONDS + rounds * (self.limits.seconds + REPLACING_SECONDS)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()

    def _call(self, arguments: Mapping[str, Any]) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.call(arguments)
        finally:
            self._idle.put(worker)
