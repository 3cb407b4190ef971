"""A figure measured several times: its median, and the least and most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=statistics.median(values), low=min(values), high=max(values), count=len(values))

    def to_json(self) -> dict[str, Any]:
        return {
            "median": five_digits(self.median),
            "low": five_digits(self.low),
            "high": five_digits(self.high),
            "count": self.count,
        }


def five_digits(value: float) -> float:
    """All that such a measurement can tell."""
    return float(f"{value:.5g}")
