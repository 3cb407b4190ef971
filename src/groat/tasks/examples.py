"""Worked examples to learn by heart before reinforcement learning: rows of a file, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from groat.tasks.tables import read_rows
from groat.types import Message, UserError

_WANTED = (
    'it needs `messages`, such as [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}], or '
    "`prompt` and `completion`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """An answer that is learned, and all that stands before it."""

    prompt: str | tuple[Message, ...]
    answer: str


Example = tuple[Lesson, ...]
"""One row: a chat has a lesson for each of the assistant's turns, each with the turns before it as the prompt."""


def read_examples(path: str, system_prompt: str | None = None) -> tuple[Example, ...]:
    """The rows of a file, in its order. `system_prompt` goes before chats without a system turn.

    UserError for a row that cannot be learned: worked examples are few, and each was meant to be there.
    """
    rows = enumerate(read_rows(path), start=1)
    examples = tuple(_example(row, f"{path}, row {number}", system_prompt) for number, row in rows)
    if not examples:
        raise UserError(f"{path} is empty: one worked example per row is expected")
    return examples


def _example(row: Mapping[str, Any], place: str, system_prompt: str | None) -> Example:
    if row.get("messages") is not None:
        before, after = (), _turns(row["messages"], place)
    elif row.get("prompt") is not None and row.get("completion") is not None:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return (_checked(Lesson(prompt=prompt, answer=completion), place),)
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        before, after = _turns(prompt, place), _turns(completion, place)
    else:
        raise UserError(f"{place} has {', '.join(map(str, row)) or 'nothing'}: {_WANTED}")
    if system_prompt is not None and (*before, *after)[0]["role"] != "system":
        before = ({"role": "system", "content": system_prompt}, *before)
    return _lessons(before, after, place)


def _lessons(before: tuple[Message, ...], after: tuple[Message, ...], place: str) -> Example:
    turns = (*before, *after)
    lessons = tuple(
        _checked(Lesson(prompt=turns[:number], answer=turns[number]["content"]), place)
        for number in range(max(1, len(before)), len(turns))
        if turns[number]["role"] == "assistant"
    )
    if not lessons:
        raise UserError(f"{place} has no turn of the assistant's after another's, so that there is nothing to learn")
    return lessons


def _turns(value: Any, place: str) -> tuple[Message, ...]:
    turns = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()
    if not turns:
        raise UserError(f"{place} holds {str(value)[:60]!r} where a list of chat turns should be: {_WANTED}")
    return tuple(_turn(turn, place) for turn in turns)


def _turn(turn: Any, place: str) -> Message:
    message = cast("Mapping[str, Any]", turn) if isinstance(turn, Mapping) else {}
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise UserError(f"{place} has the chat turn {str(turn)[:60]}; it must have a role and a content, both texts")
    return {"role": role, "content": content}


def _checked(lesson: Lesson, place: str) -> Lesson:
    if not lesson.answer.strip():
        raise UserError(f"{place} has an empty answer, which teaches to say nothing: take the row out")
    if not lesson.prompt:
        raise UserError(f"{place} has an empty prompt")
    return lesson
