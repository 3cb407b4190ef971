"""Figures as people read them."""

from __future__ import annotations

import math

from groat.tracking.rows import Evaluation


def duration(seconds: float) -> str:
    """`8.4 s`, `38 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(seconds, 59):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"


def percent(share: float) -> str:
    """`48.4%`, `100%`, `0%`."""
    if not math.isfinite(share):
        return "nan"
    return f"{share:.0%}" if share in {0, 1} else f"{share:.1%}"


def short_number(value: float) -> str:
    """Two or three digits that count: `0.0420`, `0.420`, `12.3`, `1.2k`, `3.1e-05`."""
    size = abs(value)
    if not math.isfinite(value) or size == 0:
        return f"{value:.0f}"
    if size < 1e-3:
        return f"{value:.1e}"
    if size < 1:
        return f"{value:.4f}" if size < 0.1 else f"{value:.3f}"
    if size < 100:
        return f"{value:.2f}" if size < 10 else f"{value:.1f}"
    return f"{value:.0f}" if size < 1000 else f"{value / 1000:.1f}k"


def is_share(name: str) -> bool:
    """Whether an evaluation's figure of this name is a share of problems or answers."""
    return name.startswith(("avg@", "pass@", "maj@", "greedy", "win_rate")) or "accuracy" in name


def with_interval(name: str, result: Evaluation) -> str:
    """`41.2% [37.0, 45.5]`."""
    if not is_share(name):
        return f"{short_number(result.value)} [{short_number(result.low)}, {short_number(result.high)}]"
    return f"{100 * result.value:.1f}% [{100 * result.low:.1f}, {100 * result.high:.1f}]"


def shortened(text: str, num_characters: int) -> str:
    """The text with its middle left out where it is longer: beginnings and endings tell most."""
    if len(text) <= num_characters:
        return text
    head = num_characters * 3 // 5
    tail = num_characters - head
    return f"{text[:head]} … {len(text) - num_characters} characters … {text[-tail:]}"
