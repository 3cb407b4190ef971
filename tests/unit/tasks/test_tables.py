"""Rows of local files: JSON lines, CSV, Parquet, and GSM8K's shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groat.config.tree import TaskConfig
from groat.tasks import build_task
from groat.tasks.tables import read_rows
from groat.types import UserError

ROWS = [
    {
        "question": f'Ann has {place} pens, in packs of 2.\nHow many packs, "all" told?',
        "answer": f"{place} / 2\n#### {place // 2:,}",
    }
    for place in range(2, 5000, 200)
]


def written(folder: Path, ending: str) -> str:
    path = folder / f"gsm{ending}"
    if ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif ending == ".csv":
        lines = ['"{}","{}"'.format(*(value.replace('"', '""') for value in row.values())) for row in ROWS]
        path.write_text("\ufeffquestion,answer\n" + "\n".join(lines) + "\n", encoding="utf-8")
    else:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        pyarrow.parquet.write_table(arrow.Table.from_pylist(ROWS), path)
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path, ending: str):
    assert list(read_rows(written(tmp_path, ending))) == ROWS


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_gsm8k_s_shape_becomes_a_task(tmp_path: Path, ending: str):
    config = TaskConfig(name=written(tmp_path, ending), prompt_column="question", chat=True, system_prompt="Be brief.")
    task = build_task(config, seed=0)
    assert len(task.train) + len(task.held_out) == len(ROWS)
    problem = task.train[0]
    assert [turn["role"] for turn in problem.prompt] == ["system", "user"]
    assert set(problem.columns) == {"answer"}
    right = problem.columns["answer"].rpartition("#### ")[2]
    assert task.is_correct(problem, f"so {right} in all")
    assert not task.is_correct(problem, "so 77777")


def test_a_prompt_column_hides_another_prompt(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "no", "q": f"{n}?", "answer": "1"}) for n in range(3)))
    task = build_task(TaskConfig(name=str(path), prompt_column="q"), seed=0)
    assert {problem.prompt for problem in (*task.train, *task.held_out)} == {"0?", "1?", "2?"}


def test_a_column_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"without the column `query`, .*; it has question, answer"):
        build_task(TaskConfig(name=written(tmp_path, ".csv"), prompt_column="query"), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1\n", "line 2 has not as many values"),
        ("a.csv", b"a\n1,2\n", "line 2 has not as many values"),
        ("a.csv", b'a\n"x\n', "is not CSV"),
        ("a.csv", b"a\n\xff\n", "is not UTF-8"),
        ("a.parquet", b"nothing", "is not Parquet"),
        ("none.csv", None, "cannot read"),
        ("none.parquet", None, "cannot read"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(str(tmp_path / name)))


def test_empty_values_of_a_csv_are_none(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a,b\n1,\n")
    assert list(read_rows(str(tmp_path / "a.csv"))) == [{"a": "1", "b": None}]
