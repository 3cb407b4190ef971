"""How far the run and its phases are, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

_STEPS_FOR_ETA = 20


@dataclass
class Phase:
    """Work in progress: call `advance` as pieces get done."""

    name: str
    total: int | None
    unit: str
    started: float
    report: Callable[[], None]
    done: int = 0

    def advance(self, num: int = 1) -> None:
        self.done += num
        self.report()

    def eta_seconds(self, now: float) -> float | None:
        """None until something is done, or where the total is not known."""
        if not self.done or self.total is None:
            return None
        return (now - self.started) / self.done * max(self.total - self.done, 0)


@dataclass
class RunProgress:
    """Training steps done, and how long the latest took."""

    max_steps: int = 0
    step: int = 0
    step_seconds: list[float] = field(default_factory=list[float])
    last_finished: float | None = None

    @property
    def is_under_way(self) -> bool:
        return self.step < self.max_steps

    def finish(self, step: int, step_seconds: float | None, now: float) -> None:
        # From one line to the next, so that evaluations and checkpoints in between count.
        since_last = step_seconds if self.last_finished is None else now - self.last_finished
        self.step_seconds.append(since_last or 0.0)
        self.step, self.last_finished = step, now

    def eta_seconds(self) -> float | None:
        """None before the first step is done."""
        latest = self.step_seconds[-_STEPS_FOR_ETA:]
        if not latest:
            return None
        return sum(latest) / len(latest) * (self.max_steps - self.step)
