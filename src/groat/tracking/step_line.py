"""One finished step as one line: columns on a terminal, words in a log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.text import Text

from groat.tracking.wording import duration, percent, short_number

Figures = Mapping[str, float]
"""Metrics and timings of a step, by their logged names."""


@dataclass(frozen=True)
class Column:
    """A figure of the step line; it is left out where the step has no such figure."""

    title: str
    width: int
    needs: str
    """The logged name without which there is nothing to show."""
    cell: Callable[[Figures], str]
    words: str
    """How the figure reads in a log."""
    is_alarming: Callable[[Figures], bool] = lambda _: False


def columns_that_fit(figures: Figures, width: int, step_width: int) -> list[Column]:
    """The figures of this step, most telling first, as far as the line has room for them."""
    chosen: list[Column] = []
    for column in _COLUMNS:
        if column.needs in figures and step_width + sum(1 + each.width for each in [*chosen, column]) <= width:
            chosen.append(column)
    return chosen


def header_line(columns: list[Column], width: int, step_width: int) -> Text:
    gap = _gap(columns, width, step_width)
    return Text("step".rjust(step_width) + "".join(gap + column.title.rjust(column.width) for column in columns), "dim")


def step_row(step_text: str, columns: list[Column], figures: Figures, width: int, step_width: int) -> Text:
    gap = _gap(columns, width, step_width)
    row = Text.assemble((step_text.rjust(step_width), "cyan"))
    for column in columns:
        style = "bold yellow" if column.is_alarming(figures) else "bold" if column.needs == "reward" else "default"
        row.append(gap + column.cell(figures).rjust(column.width), style=style)
    return row


def step_sentence(figures: Figures) -> str:
    """Every figure with its name, for a log."""
    return ", ".join(column.words.format(column.cell(figures)) for column in _COLUMNS if column.needs in figures)


def words_left_out(figures: Figures, columns: list[Column]) -> str:
    """The figures for which the line had no room."""
    left_out = [column for column in _COLUMNS if column.needs in figures and column not in columns]
    return "   ".join(column.words.format(column.cell(figures)) for column in left_out)


def _gap(columns: list[Column], width: int, step_width: int) -> str:
    taken = step_width + sum(column.width for column in columns)
    return "  " if taken + 2 * len(columns) <= width else " "


def _reward(figures: Figures) -> str:
    return f"{figures['reward']:.3f} ±{figures.get('reward_std', 0.0):.3f}"


def _memory(figures: Figures) -> str:
    return f"{figures['memory_gib']:.2f}/{figures.get('peak_gib', figures['memory_gib']):.2f}"


_LOGP = "sampling/sampling_logp_difference/max"
_CORRECT = "rewards/correct_answer/mean"
_TOKENS = "token_accuracy"
_CLIPPED = "completions/clipped_ratio"
_ZERO_STD = "frac_reward_zero_std"

# Most telling first: a narrow terminal shows as many as fit, and the rest under the progress bars.
_COLUMNS = (
    Column("reward ±std", 13, "reward", _reward, "reward {}"),
    Column("correct", 7, _CORRECT, lambda of: percent(of[_CORRECT]), "correct {}"),
    Column("length", 6, "completions/mean_length", lambda of: f"{of['completions/mean_length']:.0f}", "length {}"),
    Column("clipped", 7, _CLIPPED, lambda of: percent(of[_CLIPPED]), "clipped {}", lambda of: of[_CLIPPED] > 0.25),
    Column("zero-std", 8, _ZERO_STD, lambda of: percent(of[_ZERO_STD]), "zero-std {}", lambda of: of[_ZERO_STD] > 0.75),
    Column("loss", 8, "loss", lambda of: short_number(of["loss"]), "loss {}"),
    Column("tokens right", 12, _TOKENS, lambda of: percent(of[_TOKENS]), "tokens right {}"),
    Column("grad", 6, "grad_norm", lambda of: short_number(of["grad_norm"]), "grad norm {}"),
    Column("kl", 7, "kl", lambda of: short_number(of["kl"]), "kl {}"),
    Column("GiB/peak", 11, "memory_gib", _memory, "memory {} GiB"),
    Column("logp diff", 9, _LOGP, lambda of: short_number(of[_LOGP]), "logp diff {}", lambda of: of[_LOGP] > 1e-3),
    Column(
        "smp tok/s",
        9,
        "sample_tokens_per_second",
        lambda of: short_number(of["sample_tokens_per_second"]),
        "sampling {} tok/s",
    ),
    Column(
        "lrn tok/s",
        9,
        "learn_tokens_per_second",
        lambda of: short_number(of["learn_tokens_per_second"]),
        "learning {} tok/s",
    ),
    Column("time", 6, "step_time", lambda of: duration(of["step_time"]), "took {}"),
)
