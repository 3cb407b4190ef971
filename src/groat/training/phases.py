"""Which phase a run is in: shown on the console, timed, and left at once when the user asks to stop."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from types import FrameType

from groat.kernels.rooms import ROOMS
from groat.memory.allocator import trim
from groat.memory.watch import PeakWatch
from groat.tracking.console import Console

_PLANNED = {
    "load": "LOAD",
    "measure": "MEASURE",
    "prime": "PRIME",
    "sample": "SAMPLE",
    "evaluate": "SAMPLE",
    "rehearse": "LEARN",
    "score": "SCORE",
    "learn": "LEARN",
}
"""What the memory plan calls them."""


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised in an interruptible phase after SIGINT or SIGTERM."""


class Phases:
    """Times every phase and shows its progress; `seconds` adds up per phase name."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._watch = PeakWatch()
        self.stop_requested = False
        self._has_told = False

    @contextmanager
    def phase(
        self, name: str, total: int | None = None, unit: str = "", *, interruptible: bool = False
    ) -> Generator[Callable[[int], None]]:
        """Yields a function to call with what has been done since the last call."""
        self._look_for_stop(interruptible)
        started = time.perf_counter()
        watched = self._watch.watching(_PLANNED[name]) if name in _PLANNED else nullcontext()
        with self._console.phase(name, total, unit) as shown, watched:

            def done(num: int) -> None:
                shown.advance(num)
                self._look_for_stop(interruptible)

            yield done
        ROOMS.let_go()
        trim()
        self.seconds[name] += time.perf_counter() - started

    @property
    def peaks(self) -> Mapping[str, int]:
        """The most bytes held in each phase of the memory plan, by its names."""
        return self._watch.peaks

    @contextmanager
    def stopping_on_signals(self) -> Generator[None]:
        """SIGINT and SIGTERM ask to stop after the step; a second SIGINT aborts. Only in the main thread."""

        def request(number: int, _: FrameType | None) -> None:
            if self.stop_requested and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop_requested = True

        try:
            before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, where signals cannot be handled
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look_for_stop(self, interruptible: bool) -> None:
        if not self.stop_requested:
            return
        # Told here, not in the signal handler, which may have interrupted a print half done.
        if not self._has_told:
            self._has_told = True
            self._console.note("Stopping after this step; the run is saved. Ctrl-C again to abort at once.")
        if interruptible:
            raise Stopped
