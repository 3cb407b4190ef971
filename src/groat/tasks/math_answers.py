"""A reward for answers that are mathematics: equal in value, whatever the notation. Decided by math-verify."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.checked_rewards import Call, Checking, checked_reward, need
from groat.tasks.explained import Explained
from groat.tasks.extraction import (
    Box,
    Extraction,
    boxes,
    checked_extraction,
    extracted_answer,
    marked_answer,
    said_text,
)
from groat.tasks.isolation import Launcher
from groat.tasks.math_screen import refusal

UNMARKED_CHARACTERS = 1000
"""Where no answer is marked, math-verify looks for one in this much of the end of the text."""
_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed|\\begin")
_BETWEEN = re.compile(r"(?:[\s,;$&]|\\[,;:! ()]|\\q?quad|\\(?:text|textrm|mathrm)\{[^{}]{0,40}\}|and|or){0,40}")


def math_answer(
    *,
    extract: str = "auto",
    column: str = "answer",
    decimals: int = 6,
    strict: bool = True,
    sets_from_relations: bool = False,
    timeout_seconds: float = 3.0,
    memory_mib: int = 1024,
    num_workers: int = 2,
    launcher: Launcher | None = None,
) -> BuiltReward:
    """1 if the answer found in the text equals the row's as mathematics (math-verify 0.9), else 0.

    None where math-verify cannot read the row's.

    Numbers are compared to `decimals` places. Not `strict`: variables may have other names, and sets equal tuples.
    `sets_from_relations`: `1 < x < 2` as an answer equals the interval `(1, 2)`.
    Every comparison runs in a worker process, and is given up after `timeout_seconds` or `memory_mib` of address space:
    it then earns 0 and says so.
    """
    need("math_answer", "math_verify", "math-verify", "math")
    way = checked_extraction(extract)
    checking = Checking(
        rule="groat.tasks.math_checker:judge",
        resident_mib=76,
        timeout_seconds=timeout_seconds,
        memory_mib=memory_mib,
        num_workers=num_workers,
        launcher=launcher,
    )
    options = {"decimals": decimals, "strict": strict, "sets_from_relations": sets_from_relations}

    def ask(text: str, answer: Any) -> Call | Explained | None:
        if answer is None:
            return None
        wanted = str(answer).rpartition("####")[2].strip()
        given = _given(text, way)
        if not given:
            return Explained(0.0, f"no answer found ({way})")
        if given in (wanted, as_latex(wanted)):
            return Explained(1.0, "the row's answer, letter by letter")
        refused = refusal(given)
        return (
            {"given": given, "wanted": wanted, **options} if refused is None else Explained(0.0, f"not read: {refused}")
        )

    return checked_reward("math_answer", checking, ask, column)


def _given(text: str, way: Extraction) -> str | None:
    """LaTeX for math-verify: the last boxes, what is marked otherwise as one box, or the end of the text as it is."""
    found = boxes(said_text(text)) if way in ("auto", "boxed") else []
    if found:
        return _last_boxes(said_text(text), found)
    given = marked_answer(text) if way == "auto" else extracted_answer(text, way)
    if given is None:
        return said_text(text)[-UNMARKED_CHARACTERS:] if way == "auto" else None
    return as_latex(given)


def as_latex(piece: str) -> str:
    r"""A piece without delimiters of its own becomes `\boxed{piece}`."""
    return piece if _DELIMITED.search(piece) else rf"\boxed{{{piece}}}"


def _last_boxes(text: str, found: Sequence[Box]) -> str:
    """The last box, and those before it with no more than commas and such between: together they are one answer."""
    first = len(found) - 1
    while first > 0 and _BETWEEN.fullmatch(text, found[first - 1].end, found[first].start):
        first -= 1
    return text[found[first].start : found[-1].end]
