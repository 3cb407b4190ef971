"""The tables of run.sqlite, and how a connection to them is opened."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from groat.tracking.disk import read_errors, write_errors
from groat.types import UserError

SCHEMA_VERSION = 3

_TABLES = """
CREATE TABLE metrics (step INTEGER, name TEXT, value REAL, PRIMARY KEY (name, step)) WITHOUT ROWID;
CREATE TABLE timings (step INTEGER, name TEXT, value REAL, PRIMARY KEY (name, step)) WITHOUT ROWID;
CREATE TABLE rollouts (step INTEGER, group_index INTEGER, completion_index INTEGER, problem_id TEXT, prompt_text TEXT,
    text TEXT, finish_reason TEXT, num_tokens INTEGER, reward REAL, advantage REAL, policy_version INTEGER, parts TEXT,
    reasons TEXT, turns TEXT, PRIMARY KEY (step, group_index, completion_index));
CREATE TABLE events (step INTEGER, time REAL, kind TEXT, message TEXT);
CREATE TABLE evaluations (step INTEGER, name TEXT, value REAL, low REAL, high REAL, problems INTEGER);
CREATE TABLE answers (step INTEGER, problem_id TEXT, kind TEXT, prompt_text TEXT, text TEXT, correct INTEGER,
    reference TEXT);
CREATE INDEX answers_by_step ON answers (step);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_BUSY_SECONDS = 30.0


def open_writer(path: Path) -> sqlite3.Connection:
    """For the one process that trains; creates the tables where there are none."""
    with write_errors(path.parent, path.name, "Checkpoints are not touched."):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A power cut may lose the newest steps, which a resumed run computes again; it cannot tear one.
            connection.execute("PRAGMA synchronous = NORMAL")
            if not _has_tables(connection):
                version = f"INSERT INTO meta VALUES ('schema_version', '{SCHEMA_VERSION}');"
                connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}{version}COMMIT;")
        except BaseException:
            connection.close()
            raise
    return _checked(connection, path)


def open_reader(path: Path) -> sqlite3.Connection:
    """For anyone, at any time, while the run goes on or after it."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not the folder of a run: it has no {path.name}. List runs with: groat runs")
    with read_errors(path):
        connection = _connect_to_read(path)
        if not _has_tables(connection):
            connection.close()
            raise UserError(f"{path} holds no record yet: the run stopped before its first line.")
    return _checked(connection, path)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    address = path.absolute().as_uri()
    connection = sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        _has_tables(connection)
    except sqlite3.OperationalError:
        # WAL needs a file beside the database even to read. Where it cannot be made, nobody is writing either.
        connection.close()
        connection = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def _checked(connection: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    with read_errors(path):
        row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = json.loads(row[0]) if row else None
    if version != SCHEMA_VERSION:
        connection.close()
        raise UserError(
            f"{path} has schema version {version}, but this groat reads version {SCHEMA_VERSION}: "
            "use the groat that wrote it."
        )
    return connection
