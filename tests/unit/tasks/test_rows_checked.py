"""Which rows become problems, which are left out and counted, and which are an error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from row_examples import CHAT, a_file, lines, rows

from groat.config.tree import TaskConfig
from groat.tasks import build_task
from groat.tasks.rows import problems_from_rows, read_jsonl
from groat.types import UserError


def test_other_columns_are_kept_as_they_are():
    [problem] = problems_from_rows([{"prompt": "a", "answer": 4, "info": {"x": [1]}}], "rows")
    assert problem.prompt == "a"
    assert problem.columns == {"answer": 4, "info": {"x": [1]}}


def test_chat_turns_are_kept_as_turns():
    [problem] = problems_from_rows([{"prompt": CHAT}], "rows")
    assert problem.prompt == ({"role": "user", "content": "2 + 2?"},)
    assert problem.is_conversational


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "n": 1}, "rows, row 1 has no `prompt` column, only text, n: name the column"),
        ({"question": "a", "answer": "b"}, "only question, answer: rename `question` to `prompt`"),
        ({}, "only nothing"),
        ("text", "row 1 is a str, not a mapping"),
        ({"prompt": "a", "completions": 1}, "has a column `completions`, a name that reward functions get"),
        ({"prompt": "a", "log_metric": 1}, "has a column `log_metric`"),
    ],
)
def test_wrong_columns_are_an_error_that_helps(row: Any, message: str):
    with pytest.raises(UserError, match=message):
        problems_from_rows([row], "rows")


UNUSABLE = {
    "with an empty prompt": ["", "  \n", [], [{"role": "user", "content": " "}]],
    "whose prompt is neither text nor chat turns": [
        *(None, 3, {"role": "user"}, ["text"], [{"role": "user"}], [{"role": "user", "content": None}]),
        [{"role": 1, "content": "a"}],
    ],
    "with broken characters (lone surrogates)": ["\ud800", [{"role": "user", "content": "a\udfff"}]],
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_rows_that_cannot_be_used_are_left_out_counted_and_logged(reason: str, caplog: pytest.LogCaptureFixture):
    bad = [{"prompt": prompt} for prompt in UNUSABLE[reason]]
    with caplog.at_level(logging.WARNING, logger="groat"):
        problems = problems_from_rows([*bad, {"prompt": "fine"}], "rows")
    assert [problem.prompt for problem in problems] == ["fine"]
    assert caplog.messages == [f"rows: left out {len(bad)} of {len(bad) + 1} rows: {len(bad)} {reason}"]


def test_broken_characters_in_another_column_leave_the_row_out(tmp_path: Path):
    path = a_file(tmp_path, '{"prompt": "a", "answer": "\\ud800"}\n{"prompt": "b", "answer": "c"}\n')
    assert [problem.prompt for problem in problems_from_rows(read_jsonl(path), "sums")] == ["b"]


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(UserError, match=r"rows has no row to use: 2 with an empty prompt, 1 whose prompt is neither"):
        problems_from_rows([{"prompt": ""}, {"prompt": " "}, {"prompt": 3}], "rows")


def test_an_empty_dataset_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="rows is empty"):
        problems_from_rows([], "rows")
    with pytest.raises(UserError, match=r"sums.jsonl is empty"):
        build_task(TaskConfig(name=str(a_file(tmp_path, "\n\n"))), 0)


def test_ids_are_unique_stable_and_taken_from_an_id_column():
    given = [{"prompt": "a"}, {"prompt": "a"}, {"prompt": "b", "id": 7}, {"prompt": "c", "id": 7}, {"prompt": "d"}]
    ids = [problem.id for problem in problems_from_rows(given, "rows")]
    # The first twelve digits of `printf a | sha256sum`.
    assert ids[:4] == ["row-ca978112ca1b", "row-ca978112ca1b#2", "7", "7#2"]
    assert len(set(ids)) == 5
    assert ids[4] == problems_from_rows(given[4:], "other")[0].id


def test_an_id_that_looks_like_a_counted_one_stays_apart():
    given = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x#2"}, {"prompt": "c", "id": "x"}]
    assert len({problem.id for problem in problems_from_rows(given, "rows")}) == 3


def test_system_prompt_comes_before_chat_turns(tmp_path: Path):
    path = a_file(tmp_path, lines([{"prompt": CHAT, "answer": "4"}, {"prompt": CHAT, "answer": "5"}]))
    task = build_task(TaskConfig(name=str(path), system_prompt="Be brief.", eval_fraction=0), 0)
    assert task.train[0].prompt == ({"role": "system", "content": "Be brief."}, *CHAT)


def test_system_prompt_cannot_go_before_plain_text_or_a_second_one():
    with pytest.raises(UserError, match="plain text, which has no system turn: write prompts as chat turns"):
        problems_from_rows(rows(1), "rows", "Be brief.")
    with pytest.raises(UserError, match="begins with a system turn: drop one"):
        problems_from_rows([{"prompt": [{"role": "system", "content": "x"}, *CHAT]}], "rows", "Be brief.")
