"""Memory that is let go goes back to the system: without this, glibc keeps it in gaps and the peak grows by a third."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, malloc.h
_BYTES = 2**20


def return_freed_memory() -> None:
    """Blocks of 1 MiB and more are mapped on their own from now on, for the whole process; glibc on Linux only."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_TRIM_THRESHOLD, _BYTES)
    mallopt(_MMAP_THRESHOLD, _BYTES)
