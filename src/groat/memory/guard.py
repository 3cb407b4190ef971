"""Keeps to the budget while a run goes on: how much room there is, and what was done when there was too little."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from groat.kernels.rooms import ROOMS
from groat.memory.measure import amount, available_bytes, resident_bytes
from groat.types import UserError

_SPARE_BYTES = 192 * 2**20
"""Memory of the machine that is left alone: below it the kernel starts to kill."""


@dataclass(slots=True, kw_only=True)
class Guard:
    """Asked before memory is taken. Without a budget it still looks at what the machine has left."""

    budget_bytes: float = math.inf
    resident: Callable[[], int] = lambda: resident_bytes() - ROOMS.free_bytes
    available: Callable[[], float] = available_bytes
    _interventions: list[str] = field(default_factory=list[str])

    def room(self) -> float:
        """Bytes that may still be taken: of the budget, and of what the machine has."""
        return min(self.budget_bytes - self.resident(), self.available() - _SPARE_BYTES)

    def intervene(self, words: str) -> None:
        """Keep what was done for the run's events."""
        self._interventions.append(f"{words} ({self._situation()})")

    def refuse(self, what: str, needed: float) -> UserError:
        """The error for work that cannot be made any smaller."""
        if self.available() - _SPARE_BYTES < needed:
            return UserError(
                f"the machine is short of memory: {what} needs {amount(needed)}, and other processes have left "
                f"{amount(self.available())} ({amount(_SPARE_BYTES)} are kept free for them). Close some of them"
            )
        return UserError(
            f"memory.budget {amount(self.budget_bytes)} cannot be kept: {what} needs {amount(needed)} beside the "
            f"{amount(self.resident())} that are held. Raise the budget, or allow shorter completions "
            "(sampling.max_completion_length)"
        )

    def take_interventions(self) -> list[str]:
        """What was done since the last call."""
        taken, self._interventions = self._interventions, []
        return taken

    def _situation(self) -> str:
        held = f"{amount(self.resident())} held"
        if math.isfinite(self.budget_bytes):
            held += f" of {amount(self.budget_bytes)}"
        available = self.available()
        return held + (f", {amount(available)} free on the machine" if math.isfinite(available) else "")
