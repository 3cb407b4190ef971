"""Reading what a reward function returned: one number or None for each completion, or a sentence on what is wrong."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any, cast

from groat.tasks.explained import Explained


class BadValueError(Exception):
    """What came back and what to do, without the function's name; `place` is the completion it is about (None: all)."""

    def __init__(self, what: str, place: int | None = None) -> None:
        super().__init__(what)
        self.place = place


def reward_values(returned: Any, num_expected: int) -> list[float | None]:
    """Finite numbers, or None where the function does not apply."""
    if not isinstance(returned, list | tuple):
        raise BadValueError(f"returned {described(returned)}; it must return a list with one number per completion")
    values = cast("Sequence[Any]", returned)
    if len(values) != num_expected:
        raise BadValueError(
            f"returned {len(values)} value{'s' if len(values) != 1 else ''} for {num_expected} completions; "
            "it must return a list with one number per completion"
        )
    return [None if value is None else _number(value, place) for place, value in enumerate(values)]


def described(value: Any) -> str:
    """A short text such as `'abc' (str)`, whatever the size of the value."""
    try:
        shown = reprlib.repr(value)
    except Exception:
        shown = "a value"
    return f"{' '.join(shown.split())[:100]} ({type(value).__name__})"


def _number(value: Any, place: int) -> float:
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        raise BadValueError(f"returned {described(value)}; write float(...) around it, or 1.0 if ... else 0.0", place)
    if isinstance(value, str | bytes) or getattr(value, "ndim", 0) != 0:
        raise BadValueError(f"returned {described(value)}; each value must be a number or None", place)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise BadValueError(f"returned {described(value)}; each value must be a number or None", place) from error
    if not math.isfinite(number):
        raise BadValueError(f"returned {described(value)}; rewards must be finite (None: does not apply)", place)
    return value if isinstance(value, Explained) else number
