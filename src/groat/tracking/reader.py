"""Reading the record of a run, while it goes on or after it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Self

from groat.tracking.disk import read_errors
from groat.tracking.rows import AnswerRow, Evaluation, Event, RolloutRow
from groat.tracking.schema import open_reader
from groat.types import ToolCall, Turn


class RunReader:
    """The record of a run. Values that were not a number come back as nan."""

    def __init__(self, path: Path, connect: Callable[[Path], Connection] = open_reader) -> None:
        self._path = path
        self._connection = connect(path)

    def metrics(self, name: str) -> list[tuple[int, float]]:
        """(step, value) pairs, in order."""
        return self._figures("metrics", name)

    def timings(self, name: str) -> list[tuple[int, float]]:
        """(step, value) pairs, in order."""
        return self._figures("timings", name)

    def metric_names(self) -> list[str]:
        return [name for (name,) in self._rows("SELECT DISTINCT name FROM metrics ORDER BY name")]

    def timing_names(self) -> list[str]:
        return [name for (name,) in self._rows("SELECT DISTINCT name FROM timings ORDER BY name")]

    def last_step(self) -> int | None:
        """The newest recorded training step; None before the first."""
        return self._rows(
            "SELECT max(step) FROM (SELECT max(step) AS step FROM metrics UNION SELECT max(step) FROM rollouts)"
        )[0][0]

    def rollouts(self, step: int) -> list[RolloutRow]:
        order = "group_index, completion_index"
        return [
            RolloutRow(**columns)
            for columns in self._columns("rollouts", RolloutRow, f"step = {int(step)} ORDER BY {order}")
        ]

    def events(self) -> list[Event]:
        return [Event(**columns) for columns in self._columns("events", Event, "true ORDER BY rowid")]

    def evaluations(self) -> dict[int, dict[str, Evaluation]]:
        """Every evaluation by its step: 0 is before training."""
        found: dict[int, dict[str, Evaluation]] = {}
        rows = self._rows("SELECT step, name, value, low, high, problems FROM evaluations ORDER BY step, rowid")
        for step, name, value, low, high, problems in rows:
            found.setdefault(step, {})[name] = Evaluation(_number(value), _number(low), _number(high), problems)
        return found

    def evaluation(self, step: int) -> dict[str, Evaluation] | None:
        """The evaluation at this step; None if it has not been done."""
        return self.evaluations().get(step)

    def answers(self, step: int) -> list[AnswerRow]:
        """The answers kept from the evaluation at this step."""
        return [
            AnswerRow(**columns)
            for columns in self._columns("answers", AnswerRow, f"step = {int(step)} ORDER BY rowid")
        ]

    def meta(self, key: str) -> Any:
        """What was kept under this key; None if nothing was."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else None

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _figures(self, table: str, name: str) -> list[tuple[int, float]]:
        rows = self._rows(f"SELECT step, value FROM {table} WHERE name = ? ORDER BY step", name)
        return [(step, _number(value)) for step, value in rows]

    def _columns(self, table: str, row_type: type, where: str) -> list[dict[str, Any]]:
        names = [field.name for field in fields(row_type)]
        rows = self._rows(f"SELECT {', '.join(names)} FROM {table} WHERE {where}")
        decoders = [_DECODERS.get(name) for name in names]
        return [
            {name: decode(value) if decode else value for name, value, decode in zip(names, row, decoders, strict=True)}
            for row in rows
        ]

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with read_errors(self._path):
            return self._connection.execute(query, values).fetchall()


def _number(value: float | None) -> float:
    # SQLite keeps nan as NULL.
    return math.nan if value is None else value


def _turns(text: str) -> tuple[Turn, ...]:
    rows: list[dict[str, Any]] = json.loads(text)
    return tuple(replace(Turn(**row), calls=tuple(ToolCall(**call) for call in row["calls"])) for row in rows)


_DECODERS: Mapping[str, Callable[[Any], Any]] = {
    "reward": _number,
    "advantage": _number,
    "correct": bool,
    "parts": json.loads,
    "reasons": json.loads,
    "turns": _turns,
}
