"""What a phase holds at most is seen even when it is gone at its end."""

from __future__ import annotations

import mmap
import time

from groat.memory.measure import resident_bytes
from groat.memory.watch import PeakWatch

MIB = 2**20


def hold(mebibytes: int) -> None:
    with mmap.mmap(-1, mebibytes * MIB) as room:
        for page in range(0, len(room), mmap.PAGESIZE):
            room[page] = 1
        time.sleep(0.2)


def test_a_phase_that_holds_less_than_an_earlier_one_is_measured_too() -> None:
    watch, before = PeakWatch(), resident_bytes()
    for phase, mebibytes in (("large", 200), ("small", 80), ("large", 20)):
        with watch.watching(phase):
            hold(mebibytes)
    assert 195 * MIB < watch.peaks["large"] - before < 230 * MIB
    assert 75 * MIB < watch.peaks["small"] - before < 110 * MIB
