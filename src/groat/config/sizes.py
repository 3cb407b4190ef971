"""Amounts of memory as people write them."""

from __future__ import annotations

import re

_UNITS = {
    **{"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40},
}
_HINT = "write it like 3GiB (3 x 2^30 bytes), 3GB (3 x 10^9), 2500MiB or 2500MB"


def parse_size(text: str) -> int:
    """Bytes in a size such as `3GiB` or `2500MB`; ValueError says what to write instead."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an amount of memory: {_HINT}")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text[:40]!r} has no unit: {_HINT}")
    if unit.upper() not in _UNITS:
        raise ValueError(f"{text[:40]!r} has the unknown unit {unit[:20]!r}: {_HINT}")
    num_bytes = int(float(number) * _UNITS[unit.upper()])
    if num_bytes == 0:
        raise ValueError(f"{text[:40]!r} is no memory at all: {_HINT}")
    return num_bytes
