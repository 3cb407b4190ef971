r"""Finding the answer in a text: `\boxed{}`, `<answer>` tags, `#### N`, an `Answer:` line. Linear in what is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from groat.tasks.verifiers import READ_CHARACTERS
from groat.types import UserError

Extraction = Literal["auto", "boxed", "tag", "hash", "line", "text"]
"""Where an answer stands: auto tries boxed, tag, hash and line in this order, and else takes the whole text."""

_BOXED = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]{0,10}")
_BARE = re.compile(r"[^\s{}$\\]{1,200}")
_ANSWER_LINE = re.compile(
    r"(?:^[ \t*#>]{0,10}(?:(?:the|final)[ \t]{1,3}){0,2}answer[ \t*]{0,5}:|\banswer[ \t]{1,3}is\b)[ \t:*]{0,10}(.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT_SENTENCE = re.compile(r"(?:\.|\?|\*\*)(?:\s|$)")


def extracted_answer(text: str, extract: Extraction = "auto") -> str | None:
    """The answer within the end of a completion, or None where it is not given in that way.

    What stands before the last `</think>` is thinking and is not read.
    """
    if extract == "auto":
        marked = marked_answer(text)
        return said_text(text) if marked is None else marked
    return _WAYS[extract](said_text(text))


def marked_answer(text: str) -> str | None:
    """The answer that a box, a tag, hashes or an answer line points out, looked for in this order."""
    said = said_text(text)
    found = (_WAYS[way](said) for way in ("boxed", "tag", "hash", "line"))
    return next((answer for answer in found if answer is not None), None)


def said_text(text: str) -> str:
    """The end of a completion without its thinking."""
    return text[-READ_CHARACTERS:].rpartition("</think>")[2].strip()


def checked_extraction(extract: str) -> Extraction:
    """The option of a recipe; a way that does not exist is an error."""
    if extract != "auto" and extract not in _WAYS:
        raise UserError(f"extract is {extract!r}: use one of auto, {', '.join(_WAYS)}")
    return cast("Extraction", extract)


def reference_answer(answer: object) -> str:
    r"""What an answer column stands for: what is behind `####` (GSM8K), in the last `\boxed{}` (MATH), or all of it."""
    text = str(answer)
    if "####" in text:
        return text.rpartition("####")[2].strip()
    boxed = last_boxed(text)
    return text.strip() if boxed is None else boxed


@dataclass(frozen=True, slots=True)
class Box:
    """A complete `\\boxed{content}` at text[start:end]."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""Every complete `\boxed{...}` in the order of their beginnings; braces may be nested; `\boxed 5` counts too."""
    found: list[Box] = []
    open_braces: list[tuple[int, int] | None] = []  # where a box and its content begin; None for any other brace
    place = 0
    while place < len(text):
        box = _BOXED.match(text, place)
        if box is not None:
            start, place = place, box.end()
            if text[place : place + 1] == "{":
                place += 1
                open_braces.append((start, place))
            elif box.group()[-1].isspace() and (bare := _BARE.match(text, place)):
                place = bare.end()
                found.append(Box(start, place, bare.group()))
        elif text[place] == "\\":
            place += 2  # an escaped brace is a character
        else:
            if text[place] == "{":
                open_braces.append(None)
            elif text[place] == "}" and open_braces and (opened := open_braces.pop()) is not None:
                found.append(Box(opened[0], place + 1, text[opened[1] : place].strip()))
            place += 1
    return sorted(found, key=lambda box: box.start)


def last_boxed(text: str) -> str | None:
    """What is in the last box."""
    found = boxes(text)
    return found[-1].content if found else None


def last_tag(text: str, tag: str = "answer") -> str | None:
    """What is between the last `<tag>` that is closed and its end."""
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, max(end, 0))
    return None if start < 0 else text[start + len(tag) + 2 : end].strip()


def _after_hashes(text: str) -> str | None:
    _, hashes, after = text.rpartition("####")
    return after.strip().partition("\n")[0].strip() if hashes else None


def _answer_line(text: str) -> str | None:
    """What follows the last line that begins with `Answer:`, or `answer is` anywhere, up to the sentence's end."""
    lines = _ANSWER_LINE.findall(text)
    return _NEXT_SENTENCE.split(lines[-1], maxsplit=1)[0].strip() if lines else None


_WAYS: dict[str, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "tag": last_tag,
    "hash": _after_hashes,
    "line": _answer_line,
    "text": str.strip,
}
