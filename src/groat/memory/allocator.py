"""Memory that is let go goes back to the system: without this, glibc keeps it in gaps and the peak grows by a third."""

from __future__ import annotations

import ctypes
import functools
import platform

from groat.kernels.rooms import ROOMS
from groat.memory.sizes import SPARE_ROOMS

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, malloc.h
_BYTES, _SPARING_BYTES = 2**20, 2**18


def return_freed_memory(*, sparing: bool) -> None:
    """Blocks of 1 MiB and more are mapped on their own from now on, for the whole process; glibc on Linux only.

    With `sparing` those of 256 KiB too, and no room is kept beyond what is used at one time: fewer holes, and a sixth
    more time for the pages that are mapped anew.
    """
    ROOMS.spare_bytes = 0 if sparing else SPARE_ROOMS
    if (libc := _glibc()) is not None:
        size = _SPARING_BYTES if sparing else _BYTES
        libc.mallopt(_TRIM_THRESHOLD, size)
        libc.mallopt(_MMAP_THRESHOLD, size)


def trim() -> None:
    """Give back what lies free between smaller blocks: at the end of a phase, whose blocks have mostly gone."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
