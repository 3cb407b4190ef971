"""The most memory that each phase of a run holds, looked at from beside it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from groat.memory.measure import peak_bytes, resident_bytes, sees_what_is_held

_SECONDS_BETWEEN_LOOKS = 0.05


class PeakWatch:
    """`peaks` has bytes by phase: exact where a phase held more than the process ever had before, else from looking
    20 times a second, where the system tells what is held."""

    def __init__(self) -> None:
        self.peaks: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def watching(self, phase: str) -> Generator[None]:
        """Look while the block runs."""
        before, ended = peak_bytes(), threading.Event()
        watcher = threading.Thread(target=self._look, args=(phase, ended), name="peak watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            after = peak_bytes()
            if after > before:
                self._note(phase, after)

    def _look(self, phase: str, ended: threading.Event) -> None:
        while sees_what_is_held() and not ended.wait(_SECONDS_BETWEEN_LOOKS):
            self._note(phase, resident_bytes())

    def _note(self, phase: str, num_bytes: int) -> None:
        self.peaks[phase] = max(self.peaks[phase], num_bytes)
