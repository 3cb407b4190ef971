"""Rows of a file, read as they are asked for: JSON lines, CSV with a header, Parquet."""

from __future__ import annotations

import csv
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groat.tasks.rows import LONGEST_LINE_BYTES, read_jsonl
from groat.types import UserError

ENDINGS = (".jsonl", ".csv", ".parquet")
_ROWS_AT_ONCE = 256


def read_rows(path: str) -> Iterator[Mapping[str, Any]]:
    """One mapping per row; which kind of file it is, its ending says."""
    ending = Path(path).suffix
    if ending == ".csv":
        return _read_csv(path)
    return _read_parquet(path) if ending == ".parquet" else read_jsonl(path)


def _read_csv(path: str) -> Iterator[Mapping[str, Any]]:
    """Every value is a text; an empty one is None."""
    csv.field_size_limit(LONGEST_LINE_BYTES)
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            for row in rows:
                if None in row or None in row.values():
                    raise UserError(f"{path}, line {rows.line_num} has not as many values as the header has names")
                yield {name: value if value else None for name, value in row.items()}
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save the file as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path} is not CSV: {error}") from error


def _read_parquet(path: str) -> Iterator[Mapping[str, Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(f'{path} is Parquet, and pyarrow is not installed: pip install "groat[parquet]"')
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise UserError(f"{path} is not Parquet: {error}") from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UserError:
    place = "" if Path(path).is_absolute() else f" (looked for in {Path.cwd()})"
    return UserError(f"cannot read {path}{place}: {error.strerror or error}. Check the path")
