"""What a run leaves behind: figures, rollouts, evaluations and events, in `run.sqlite`.

One process writes; any number may read while it does. What belongs to one step is written whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from groat.tracking.disk import write_errors
from groat.tracking.lock import RunLock as RunLock
from groat.tracking.reader import RunReader
from groat.tracking.rows import AnswerRow as AnswerRow
from groat.tracking.rows import Evaluation as Evaluation
from groat.tracking.rows import Event as Event
from groat.tracking.rows import RolloutRow as RolloutRow
from groat.tracking.schema import open_writer

_STEP_TABLES = ("metrics", "timings", "rollouts", "evaluations", "answers")
_SAFE = "Everything recorded before it and all checkpoints are safe."


class RunStore(RunReader):
    """The record of a run, opened by the process that trains; created where there is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, open_writer)

    @staticmethod
    def read(path: Path) -> RunReader:
        return RunReader(path)

    def record_step(
        self,
        step: int,
        metrics: Mapping[str, float],
        timings: Mapping[str, float],
        rollouts: Sequence[RolloutRow],
    ) -> None:
        """Everything about one step at once; a step recorded before is replaced."""
        with self._transaction(f"step {step}") as connection:
            for table in ("metrics", "timings", "rollouts"):
                connection.execute(f"DELETE FROM {table} WHERE step = ?", (step,))
            _insert(connection, "metrics", [(step, name, float(value)) for name, value in metrics.items()])
            _insert(connection, "timings", [(step, name, float(value)) for name, value in timings.items()])
            _insert(connection, "rollouts", [(step, *_rollout_columns(row)) for row in rollouts])

    def record_event(self, step: int, kind: str, message: str) -> None:
        with self._transaction(f"an event of step {step}") as connection:
            _insert(connection, "events", [(step, time.time(), kind, message)])

    def record_evaluation(self, step: int, results: Mapping[str, Evaluation], answers: Sequence[AnswerRow]) -> None:
        """Everything about one evaluation at once; an evaluation recorded before at this step is replaced."""
        with self._transaction(f"the evaluation of step {step}") as connection:
            for table in ("evaluations", "answers"):
                connection.execute(f"DELETE FROM {table} WHERE step = ?", (step,))
            _insert(connection, "evaluations", [(step, name, *astuple(result)) for name, result in results.items()])
            _insert(connection, "answers", [(step, *astuple(answer)) for answer in answers])

    def forget_after(self, step: int) -> None:
        """Drop what later steps recorded, except events: a resumed run records those steps again."""
        with self._transaction(f"the return to step {step}") as connection:
            for table in _STEP_TABLES:
                connection.execute(f"DELETE FROM {table} WHERE step > ?", (step,))

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under this key."""
        assert key != "schema_version"
        with self._transaction(key) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def flush(self) -> None:
        """Make every step recorded so far survive a power cut. Call it before a checkpoint is called complete."""
        with write_errors(self._path.parent, self._path.name, _SAFE):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def _transaction(self, what: str) -> Generator[Connection]:
        with write_errors(self._path.parent, what, _SAFE):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back where the disk was full.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _insert(connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO {table} VALUES ({marks})", [_storable(value) for value in row])


def _rollout_columns(row: RolloutRow) -> tuple[Any, ...]:
    as_json = {
        name: json.dumps({_storable(key): _storable(value) for key, value in mapping.items()})
        for name, mapping in (("parts", row.parts), ("reasons", row.reasons))
    } | {"turns": json.dumps([asdict(turn) for turn in row.turns], default=str)}
    return tuple({**asdict(row), "finish_reason": str(row.finish_reason), **as_json}.values())


def _storable(value: Any) -> Any:
    """Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD; everything else stays."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
