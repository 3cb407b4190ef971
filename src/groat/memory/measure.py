"""How much memory the process really holds."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

_STATUS, _MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")
_NEW_FILES = ("memory.max", "memory.current", "inactive_file")
_OLD_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""The limit, what is used, and the file caches in it: of the groups within as well, as the other two are."""
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def resident_bytes() -> int:
    """Held now: VmRSS; where there is no /proc, the peak."""
    return _status_bytes("VmRSS:") or peak_bytes()


def sees_what_is_held() -> bool:
    """Whether `resident_bytes` is what is held now, not only the peak."""
    return _STATUS.exists()


def peak_bytes() -> int:
    """The most held since the process began: VmHWM, everything included."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def available_bytes() -> float:
    """What this process can still take without anybody swapping: of the machine, and of its control group.

    Infinite where the system does not say.
    """
    machine = _first_number(_MEMINFO, "MemAvailable:")
    return min([math.inf if machine is None else machine * 1024.0, *control_group_room()])


def control_group_room(root: Path = _GROUPS, own: Path = _OWN_GROUPS) -> Iterator[float]:
    """Limit less use (file caches not counted) of every control group that the process is in and that has a limit.

    Both versions of control groups, as containers, systemd and cluster schedulers set them up (cgroups(7)).
    """
    for group in _groups(root, own):
        limit, used, caches = _NEW_FILES if (group / _NEW_FILES[0]).exists() else _OLD_FILES
        try:
            most, held = int((group / limit).read_text()), int((group / used).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        yield float(most - held + (_first_number(group / "memory.stat", caches) or 0))


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the process's groups and of those they lie in, which limit it as well."""
    yield from (root, root / "memory")  # what a container sees as its own
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) < 3:
            continue
        _, controllers, path = parts
        if not controllers or "memory" in controllers.split(","):
            hierarchy = root / "memory" if controllers else root
            group = hierarchy / path.lstrip("/")
            while group != hierarchy and hierarchy in group.parents:
                yield group
                group = group.parent


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


def amount(num_bytes: float) -> str:
    """For people: GiB, or MiB where that would be little."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{max(0.0, num_bytes) / 2**20:.0f} MiB"


def gib(num_bytes: float) -> float:
    return num_bytes / 2**30
