"""What every section of the configuration is built with: unknown keys refused, values checked under their names."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from groat.config.sizes import parse_size


class Strict:
    """Unknown keys in a YAML file are an error, at every level of the tree."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


def at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value:g}")


def above_zero(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be above 0, got {value:g}")


def within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value:g}")


def is_size(name: str, text: str) -> None:
    try:
        parse_size(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
