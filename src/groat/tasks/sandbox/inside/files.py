"""Open files of the sandbox's processes: few, with low numbers, and none of them for a program but its own."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Sequence
from itertools import pairwise

MOST = 128
"""All numbers lie below, so that closing every other file takes no time."""
_FREE_FROM = 100
"""Above every file number that a program is given."""


def keep_only(*kept: int) -> list[int]:
    """Of what this process was started with, these and 0, 1 and 2; the new numbers are 3, 4, ..."""
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, 3 + len(kept)) for file in kept]
    numbers = [os.dup2(copy, 3 + place, inheritable=False) for place, copy in enumerate(copies)]
    os.closerange(3 + len(kept), max(*copies, *kept) + 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return numbers


def become(passed: Sequence[int]) -> None:
    """These become files 0, 1, 2, ... and no other stays open."""
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, _FREE_FROM) for file in passed]
    for number, copy in enumerate(copies):
        os.dup2(copy, number)
    os.closerange(len(copies), MOST)


def close_all_but(*kept: int) -> None:
    for low, high in pairwise([-1, *sorted(kept), MOST]):
        os.closerange(low + 1, high)
