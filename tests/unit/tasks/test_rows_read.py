"""A .jsonl file is read line by line, and a bad line is named by its number."""

from __future__ import annotations

from pathlib import Path

import pytest
from row_examples import a_file

from groat.tasks.rows import LONGEST_LINE_BYTES, read_jsonl
from groat.types import UserError


def test_lines_become_rows_and_blank_ones_are_skipped(tmp_path: Path):
    path = a_file(tmp_path, '{"prompt": "a"}\n\n   \r\n{"prompt": "ü"}\r\n{"prompt": "c"}')
    assert [row["prompt"] for row in read_jsonl(path)] == ["a", "ü", "c"]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path):
    assert list(read_jsonl(a_file(tmp_path, b'\xef\xbb\xbf{"prompt": "a"}\n'))) == [{"prompt": "a"}]


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path):
    reader = read_jsonl(a_file(tmp_path, '{"prompt": "a"}\nnot json\n'))
    assert next(reader) == {"prompt": "a"}
    with pytest.raises(UserError):
        next(reader)


@pytest.mark.parametrize(
    ("second_line", "message"),
    [
        (b'{"prompt": "b"', "line 2 is not JSON: Expecting"),
        (b"[1, 2]", "line 2 is a JSON list, not an object"),
        (b'"text"', "line 2 is a JSON str, not an object"),
        (b"null", "line 2 is a JSON NoneType"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'{"prompt": "b", "n": ' + b"9" * 5000 + b"}", "line 2 is not JSON"),
        (b'{"prompt": "\xff"}', "line 2 is not UTF-8 text"),
        (b'{"prompt": "' + b"x" * LONGEST_LINE_BYTES + b'"}', "line 2 is longer than 16 MiB"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, second_line: bytes, message: str):
    path = a_file(tmp_path, b'{"prompt": "a"}\n' + second_line + b"\n")
    with pytest.raises(UserError, match=f"sums.jsonl, {message}"):
        list(read_jsonl(path))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match=f"cannot read {path}"):
            list(read_jsonl(path))
