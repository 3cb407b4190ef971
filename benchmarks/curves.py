"""Accuracy over the seconds of training: a side's curve, when it reached a target, and how two sides compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.sides import GROAT
from benchmarks.spread import five_digits
from groat.tracking.rows import Evaluation

_ROUND = 20
"""Round figures are twentieths: 5%, 10%, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A saved adapter."""

    steps: int
    seconds: float
    """Of training until it was saved; loading, saving and evaluating do not count."""
    figures: Mapping[str, Evaluation]
    """On held-out problems."""

    @classmethod
    def after(cls, steps: int, step_seconds: Sequence[float], figures: Mapping[str, Evaluation]) -> Point:
        """`step_seconds` has every step of the training, in order."""
        assert steps <= len(step_seconds)
        return cls(steps=steps, seconds=round(math.fsum(step_seconds[:steps]), 3), figures=figures)

    def to_json(self) -> dict[str, Any]:
        figures = {name: asdict(figure) for name, figure in self.figures.items()}
        return {"steps": self.steps, "seconds": self.seconds, "figures": figures}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        figures = {name: Evaluation(**figure) for name, figure in data["figures"].items()}
        return cls(steps=data["steps"], seconds=data["seconds"], figures=figures)


Curve = Sequence[Point]
"""In the order of their steps."""


def first_reaching(curve: Curve, figure: str, target: float) -> Point | None:
    """The first saved adapter at or above the target; None where none is. Nobody measured between two of them."""
    return next((point for point in curve if point.figures[figure].value >= target), None)


def comparison(curves: Mapping[str, Curve], figure: str, target: float) -> dict[str, Any]:
    """When each side reached the target, and every round figure that all reached: one alone could be picked."""
    reached = {name: first_reaching(curve, figure, target) for name, curve in curves.items()}
    return {
        "figure": figure,
        "target": target,
        "reached": {name: None if point is None else _told(point, figure) for name, point in reached.items()},
        "times_less": _times_less(reached),
        "by_target": _by_target(curves, figure),
    }


def step_speed(step_seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """How many times as fast as each other side groat's steps are: those that both have done, added up."""
    speeds: dict[str, float] = {}
    for name, seconds in step_seconds.items():
        num_both = min(len(seconds), len(step_seconds[GROAT]))
        if name != GROAT and num_both:
            speeds[name] = five_digits(sum(seconds[:num_both]) / sum(step_seconds[GROAT][:num_both]))
    return speeds


def _by_target(curves: Mapping[str, Curve], figure: str) -> list[dict[str, Any]]:
    tried = [number / _ROUND for number in range(1, _ROUND + 1)]
    rows: list[dict[str, Any]] = []
    for target in tried:
        reached = {name: first_reaching(curve, figure, target) for name, curve in curves.items()}
        seconds = {name: point.seconds for name, point in reached.items() if point is not None}
        if len(seconds) == len(curves) and min(seconds.values()) > 0:
            rows.append({"target": target, "seconds": seconds, "times_less": _times_less(reached)})
    return rows


def _times_less(reached: Mapping[str, Point | None]) -> dict[str, float]:
    """Each other side's seconds over groat's; where one of the two has none, or needed no step, nothing is said."""
    groat = reached.get(GROAT)
    if groat is None or not groat.seconds:
        return {}
    others = {name: point for name, point in reached.items() if name != GROAT and point is not None}
    return {name: five_digits(point.seconds / groat.seconds) for name, point in others.items()}


def _told(point: Point, figure: str) -> dict[str, Any]:
    return {"steps": point.steps, "seconds": point.seconds, "value": point.figures[figure].value}
