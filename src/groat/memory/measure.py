"""How much memory the process really holds."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Held now: VmRSS; where there is no /proc, the peak."""
    return _status_bytes("VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """The most held since the process began: VmHWM, everything included."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _status_bytes(name: str) -> int:
    if not _STATUS.exists():
        return 0
    lines = (line.split() for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return next((int(words[1]) * 1024 for words in lines), 0)


def gib(num_bytes: float) -> float:
    return num_bytes / 2**30
