"""Rows and files of rows for the tests of datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHAT = [{"role": "user", "content": "2 + 2?"}]


def a_file(folder: Path, content: str | bytes, name: str = "sums.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(count: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{number} + 1?", "answer": str(number + 1), **columns} for number in range(count)]


def lines(given: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in given)
