"""What was measured on what: facts of the machine and versions, without anything that names a place or a person."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "sve")
_PACKAGES = ("torch", "numpy", "tokenizers")


def machine_facts() -> dict[str, Any]:
    """CPU, the cores this process may use, what they can do, caches and memory."""
    info = _cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(usable_cores()),
        "cores_of_machine": os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "last_level_cache_mib": _last_level_cache_mib(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
    }


def usable_cores() -> tuple[int, ...]:
    """The numbers of the cores this process is allowed on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def groat_versions() -> dict[str, Any]:
    """Of groat, of its commit, and of what it stands on."""
    return {
        "groat": version("groat"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "has_changes": bool(_git("status", "--porcelain", "--", "src", "benchmarks")),
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.is_file() else ""
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _last_level_cache_mib() -> float | None:
    """As the system says; a virtual machine may be told the whole cache of a host that it shares."""
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    kib = [int(text[:-1]) for path in sizes if (text := path.read_text().strip()).endswith("K")]
    return max(kib) / 1024 if kib else None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None
    return done.stdout.strip()
