"""How much memory the process really holds."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
_CONTROL_GROUPS = tuple(
    tuple(Path("/sys/fs/cgroup") / name for name in names)
    for names in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    )
)


def resident_bytes() -> int:
    """Held now: VmRSS; where there is no /proc, the peak."""
    return _status_bytes("VmRSS:") or peak_bytes()


def peak_bytes() -> int:
    """The most held since the process began: VmHWM, everything included."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def available_bytes() -> float:
    """What this process can still take without anybody swapping: of the machine, and of its control group.

    Infinite where the system does not say.
    """
    machine = _first_number(_MEMINFO, "MemAvailable:")
    return min([math.inf if machine is None else machine * 1024.0, *_control_group_room()])


def _control_group_room() -> Iterator[float]:
    """Limit less use (file caches not counted) of the control groups a container usually sees."""
    for limit, used, caches in _CONTROL_GROUPS:
        try:
            most, held = int(limit.read_text()), int(used.read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        yield float(most - held + (_first_number(caches, "inactive_file") or 0))


def _first_number(path: Path, name: str) -> int | None:
    try:
        lines = (line.split() for line in path.read_text().splitlines())
        return next((int(words[1]) for words in lines if words and words[0] == name), None)
    except (OSError, ValueError, IndexError):
        return None


def _status_bytes(name: str) -> int:
    if not _STATUS.exists():
        return 0
    lines = (line.split() for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return next((int(words[1]) * 1024 for words in lines), 0)


def gib(num_bytes: float) -> float:
    return num_bytes / 2**30
