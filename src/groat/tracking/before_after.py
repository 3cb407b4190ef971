"""What training changed: accuracy on held-out problems, and answers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from groat.tracking.printable import one_line, printable
from groat.tracking.rows import AnswerRow, Evaluation
from groat.tracking.wording import is_share, short_number, shortened, with_interval

_PROMPT_CHARACTERS = 240
_ANSWER_CHARACTERS = 500


@dataclass(frozen=True)
class AnswerPair:
    """The answers to one problem before and after training."""

    before: AnswerRow
    after: AnswerRow


def paired_answers(before: Sequence[AnswerRow], after: Sequence[AnswerRow], num_pairs: int = 3) -> list[AnswerPair]:
    """Problems answered both times, in turn: one that training mended, broke, left wrong, left right, and again."""
    answer_after = _first_answers(after)
    pairs = [AnswerPair(row, answer_after[key]) for key, row in _first_answers(before).items() if key in answer_after]
    by_change = [
        [pair for pair in pairs if (pair.before.correct, pair.after.correct) == change]
        for change in ((False, True), (True, False), (False, False), (True, True))
    ]
    in_turn = [pair for turn in zip_longest(*by_change) for pair in turn if pair is not None]
    return in_turn[:num_pairs]


def evaluation_table(title: str, results: Mapping[str, Evaluation]) -> RenderableType:
    """One evaluation in a few lines."""
    grid = Table.grid(padding=(0, 2))
    for name, result in results.items():
        grid.add_row(Text(printable(name)), Text(with_interval(name, result), style="bold"))
    problems = max((result.problems for result in results.values()), default=0)
    heading = Text.assemble((printable(title), "bold"), (f"  {problems} held-out problems, 95% intervals", "dim"))
    return Group(heading, Padding(grid, (0, 0, 0, 2)))


def before_after(
    before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], answers: Sequence[AnswerPair]
) -> RenderableType:
    return Group(*_parts(before, after, answers))


def _first_answers(rows: Sequence[AnswerRow]) -> dict[tuple[str, str], AnswerRow]:
    first: dict[tuple[str, str], AnswerRow] = {}
    for row in rows:
        first.setdefault((row.problem_id, row.kind), row)
    return first


def _parts(
    before: Mapping[str, Evaluation], after: Mapping[str, Evaluation], answers: Sequence[AnswerPair]
) -> Iterator[RenderableType]:
    yield _accuracy(before, after)
    for pair in answers:
        yield Text()
        yield _problem(pair.after)
        yield _side_by_side(pair)


def _accuracy(before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> Table:
    problems = max((result.problems for result in after.values()), default=0)
    table = Table(
        title=Text(f"{problems} held-out problems, before and after training, 95% intervals", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, result in after.items():
        old = before.get(name)
        table.add_row(
            Text(printable(name)),
            Text(with_interval(name, old) if old else "not measured", style="dim" if old is None else ""),
            Text(with_interval(name, result), style="bold"),
            _change(name, old, result),
        )
    return table


def _change(name: str, before: Evaluation | None, after: Evaluation) -> Text:
    if before is None:
        return Text("")
    change = after.value - before.value
    if not is_share(name):
        return Text(f"{'+' if change >= 0 else ''}{short_number(change)}")
    style = "green" if change > 0 else "red" if change < 0 else "dim"
    return Text(f"{100 * change:+.1f} points", style=style)


def _problem(answer: AnswerRow) -> Text:
    prompt = one_line(answer.prompt_text)
    wanted = f"; the answer is {one_line(answer.reference)}" if answer.reference else ""
    shown = prompt if len(prompt) <= _PROMPT_CHARACTERS else "… " + prompt[-_PROMPT_CHARACTERS:]
    return Text.assemble(
        (f"Problem {one_line(answer.problem_id)} ", "bold"),
        (f"({one_line(answer.kind)}{wanted})\n", "dim"),
        shown,
    )


def _side_by_side(pair: AnswerPair) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column(_verdict("before", pair.before), ratio=1, overflow="fold")
    table.add_column(_verdict("after", pair.after), ratio=1, overflow="fold")
    table.add_row(_answer(pair.before), _answer(pair.after))
    return table


def _verdict(when: str, answer: AnswerRow) -> Text:
    if answer.kind == "judged":
        words = "" if when == "before" else ": better by the judge" if answer.correct else ": not better by the judge"
        return Text.assemble((when, "bold"), (words, "green" if answer.correct else "dim"))
    style = "green" if answer.correct else "red"
    return Text.assemble((f"{when}: ", "bold"), ("correct" if answer.correct else "wrong", style))


def _answer(answer: AnswerRow) -> Text:
    text = printable(answer.text).strip()
    return Text(shortened(text, _ANSWER_CHARACTERS)) if text else Text("(nothing)", style="dim")
