"""Worked examples: which turns are learned, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from row_examples import a_file, lines

from groat.tasks.examples import Lesson, read_examples
from groat.types import UserError


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK, SAY, MORE, AGAIN = turn("user", "2 + 3?"), turn("assistant", "5"), turn("user", "+ 1?"), turn("assistant", "6")


def read(tmp_path: Path, *rows: object, system_prompt: str | None = None):
    return read_examples(str(a_file(tmp_path, lines(rows))), system_prompt)


def test_every_turn_of_the_assistants_is_learned_after_all_that_stands_before_it(tmp_path: Path) -> None:
    [example] = read(tmp_path, {"messages": [ASK, SAY, MORE, AGAIN]})
    assert example == (Lesson(prompt=(ASK,), answer="5"), Lesson(prompt=(ASK, SAY, MORE), answer="6"))


def test_of_prompt_and_completion_only_the_completion_is_learned(tmp_path: Path) -> None:
    text, chat, mixed = read(
        tmp_path,
        {"prompt": "2 + 3 =", "completion": " 5"},
        {"prompt": [ASK, SAY, MORE], "completion": [AGAIN]},
        {"prompt": [ASK], "completion": "5"},
    )
    assert text == (Lesson(prompt="2 + 3 =", answer=" 5"),)
    assert chat == (Lesson(prompt=(ASK, SAY, MORE), answer="6"),)
    assert mixed == (Lesson(prompt=(ASK,), answer="5"),)


def test_a_system_prompt_goes_before_chats_without_one(tmp_path: Path) -> None:
    system = turn("system", "Be brief.")
    without, with_one, text = read(
        tmp_path,
        {"messages": [ASK, SAY]},
        {"messages": [turn("system", "Own."), ASK, SAY]},
        {"prompt": "a", "completion": "b"},
        system_prompt="Be brief.",
    )
    assert without[0].prompt == (system, ASK)
    assert with_one[0].prompt == (turn("system", "Own."), ASK)
    assert text[0].prompt == "a"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "a"}, "row 2 has question: it needs `messages`"),
        ({"messages": "hello"}, "'hello' where a list of chat turns should be"),
        ({"messages": []}, "where a list of chat turns should be"),
        ({"messages": [ASK]}, "no turn of the assistant's after another's"),
        ({"messages": [SAY]}, "no turn of the assistant's after another's"),
        ({"messages": [ASK, {"role": "assistant", "content": 5}]}, "must have a role and a content, both texts"),
        ({"messages": [ASK, turn("assistant", " ")]}, "an empty answer"),
        ({"prompt": "", "completion": "b"}, "an empty prompt"),
        ({"prompt": "a", "completion": [SAY]}, "'a' where a list of chat turns should be"),
    ],
)
def test_what_cannot_be_learned_is_refused_with_its_row(tmp_path: Path, row: object, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read(tmp_path, {"messages": [ASK, SAY]}, row)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty: one worked example per row"):
        read(tmp_path)
