"""Waiting with a limit, for both sides of the border, on machines that stall."""

from __future__ import annotations

import math
import select

SLICE_SECONDS = 0.1


def wait(waiting: select.poll, seconds: float) -> tuple[list[int], float]:
    """The files that are ready (none: the time is over), and the seconds that this took.

    Counted in short slices, each for no more than it should have taken: while a machine is paused, or gives no time to
    this process, it gives none to the program that is waited for either.
    """
    num_slices = max(1, math.ceil(seconds / SLICE_SECONDS))
    for waited in range(num_slices):
        if ready := waiting.poll(1000 * min(SLICE_SECONDS, max(seconds, 0.0))):
            return [file for file, _ in ready], waited * SLICE_SECONDS
    return [], seconds
