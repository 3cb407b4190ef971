"""What a person sees while a run goes on: progress with an ETA, a line per step, warnings, and the result.

On a terminal the bars live only inside a `phase`, so an error can never leave one behind. No thread redraws them: it
would take turns with the training, and hold locks that a forked reward worker inherits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from groat.tracking.before_after import AnswerPair, before_after, evaluation_table
from groat.tracking.printable import one_line
from groat.tracking.printable import printable as printable
from groat.tracking.progress import Phase, RunProgress
from groat.tracking.rows import Evaluation
from groat.tracking.step_line import (
    Column,
    columns_that_fit,
    header_line,
    step_row,
    step_sentence,
    words_left_out,
)
from groat.tracking.terminal import can_redraw, rich_console
from groat.tracking.wording import duration

LOSS_SENTENCE = (
    "The loss is near 0 by construction: advantages in a group sum to zero and the ratio is 1 before the first update. "
    "Watch reward, not loss."
)
_PLAIN_PROGRESS_SECONDS = 20.0
_REDRAW_SECONDS = 0.1
_STEPS_PER_HEADER = 25


class Console:
    """Where a run reports to. `quiet` leaves warnings only; a stream that is no terminal gets plain lines."""

    def __init__(
        self, quiet: bool = False, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        out: TextIO = sys.stdout if stream is None else stream
        self._quiet = quiet
        self._clock = clock
        self._is_live = can_redraw(out)
        self._rich = rich_console(out)
        self._live: Live | None = None
        self._phases: list[Phase] = []
        self._next_report = 0.0
        self._run = RunProgress()
        self._columns: list[Column] = []
        self._left_out = ""

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "") -> Generator[Phase]:
        """Shows how far this work is while the block runs; phases may nest."""
        started = self._clock()
        phase = Phase(name, total, unit, started, self._report)
        self._phases.append(phase)
        self._next_report = started + (0 if self._is_live else _PLAIN_PROGRESS_SECONDS)
        opened = self._open_live()
        self._report()
        try:
            yield phase
        finally:
            self._phases.pop()
            if opened:
                self._close_live()
        self._tell_phase_done(phase)

    def start_run(self, max_steps: int, first_step: int = 1, what: str = "Training") -> None:
        """`first_step` is the first one this process trains: 1, or more in a resumed run."""
        self._run = RunProgress(max_steps=max_steps, step=first_step - 1)
        self._columns = []
        self.note(f"{what}: steps {first_step} to {max_steps}")

    def step(self, step: int, metrics: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """A line for a finished step."""
        figures = {**timings, **metrics}
        is_first = not self._run.step_seconds
        self._run.finish(step, figures.get("step_time"), self._clock())
        if self._quiet:
            return
        if self._is_live:
            self._print_row(step, figures)
        else:
            self._print_line(f"step {step}/{self._run.max_steps}: {step_sentence(figures)}{self._run_eta()}")
        if is_first and "reward" in figures and abs(figures.get("loss", 1.0)) < 0.05:
            self._rich.print(Text(LOSS_SENTENCE, style="dim italic"))

    def note(self, message: str) -> None:
        if not self._quiet:
            self._rich.print(Text(printable(message)), soft_wrap=not self._is_live)

    def event(self, kind: str, message: str) -> None:
        """A warning: shown even when quiet."""
        text = Text.assemble((f"warning ({one_line(kind)}): ", "bold yellow"), (printable(message), "yellow"))
        self._rich.print(text, soft_wrap=not self._is_live)

    def evaluation(self, title: str, results: Mapping[str, Evaluation]) -> None:
        self._print(evaluation_table(title, results))
        self._columns = []

    def table_before_after(
        self, before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], answers: Sequence[AnswerPair]
    ) -> None:
        """The result of the run; `paired_answers` chooses the answers."""
        self._print(Text())
        self._print(before_after(before, after, answers))

    def _print(self, renderable: RenderableType) -> None:
        if not self._quiet:
            self._rich.print(renderable)

    def _print_line(self, line: str) -> None:
        self._rich.print(Text(line), soft_wrap=True)

    def _print_row(self, step: int, figures: Mapping[str, float]) -> None:
        width = self._rich.width
        total = str(self._run.max_steps)
        step_width = 2 * len(total) + 1
        columns = columns_that_fit(figures, width, step_width)
        if columns != self._columns or len(self._run.step_seconds) % _STEPS_PER_HEADER == 0:
            self._rich.print(header_line(columns, width, step_width))
            self._columns = columns
        self._rich.print(step_row(f"{step}/{total}", columns, figures, width, step_width))
        self._left_out = words_left_out(figures, columns)

    def _report(self) -> None:
        now = self._clock()
        if self._quiet or now < self._next_report:
            return
        if self._live:
            self._next_report = now + _REDRAW_SECONDS
            self._live.update(self._panel(), refresh=True)
        elif not self._is_live:
            self._next_report = now + _PLAIN_PROGRESS_SECONDS
            self._print_line(f"  {_phase_words(self._phases[-1], now)}")

    def _tell_phase_done(self, phase: Phase) -> None:
        """Inside a run the step line tells enough; before and after it, each phase leaves a line."""
        if not self._quiet and not self._run.is_under_way and not self._phases:
            self._rich.print(Text(f"{phase.name}: done in {duration(self._clock() - phase.started)}", style="dim"))

    def _open_live(self) -> bool:
        if self._quiet or not self._is_live or self._live:
            return False
        self._live = Live(self._panel(), console=self._rich, auto_refresh=False, transient=True)
        self._live.start(refresh=True)
        return True

    def _close_live(self) -> None:
        assert self._live
        self._live.stop()
        self._live = None

    def _panel(self) -> RenderableType:
        now = self._clock()
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column()
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(justify="right", no_wrap=True)
        if self._run.is_under_way:
            done = f"{self._run.step}/{self._run.max_steps} steps"
            grid.add_row("run", _bar(self._run.step, self._run.max_steps), done, _eta(self._run.eta_seconds()))
        for phase in self._phases:
            grid.add_row(phase.name, _bar(phase.done, phase.total), _amount(phase), _eta(phase.eta_seconds(now)))
        if not self._left_out:
            return grid
        return Group(grid, Text(self._left_out, style="dim", no_wrap=True, overflow="ellipsis"))

    def _run_eta(self) -> str:
        seconds = self._run.eta_seconds()
        return f", ETA {duration(seconds)}" if seconds else ""


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total or 1, completed=done if total else 0)


def _amount(phase: Phase) -> str:
    return f"{phase.done}{'' if phase.total is None else f'/{phase.total}'} {phase.unit}".strip()


def _eta(seconds: float | None) -> str:
    return "" if seconds is None else f"ETA {duration(seconds)}"


def _phase_words(phase: Phase, now: float) -> str:
    eta = _eta(phase.eta_seconds(now)) or f"{duration(now - phase.started)} so far"
    return f"{phase.name}: {_amount(phase)}, {eta}"
