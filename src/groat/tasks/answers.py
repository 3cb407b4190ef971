"""Rewards that compare the answer in a text with the one of the row, character by character or as numbers."""

from __future__ import annotations

from typing import Any

from groat.tasks.built_rewards import BuiltReward, answer_reward
from groat.tasks.explained import Explained, shortened
from groat.tasks.extraction import (
    Extraction,
    checked_extraction,
    extracted_answer,
    marked_answer,
    reference_answer,
    said_text,
)
from groat.tasks.numbers import Number, last_number, parsed_number
from groat.types import UserError


def exact_answer(*, extract: str = "auto", ignore_case: bool = False, column: str = "answer") -> BuiltReward:
    """1 if the answer found in the text is the row's, character by character, else 0.

    Blanks around it, `$` around it and how many blanks stand between words make no difference.
    """
    way = checked_extraction(extract)

    def rule(text: str, answer: Any) -> Explained:
        given, wanted = extracted_answer(text, way), _normal(reference_answer(answer), ignore_case)
        if given is None:
            return Explained(0.0, f"no answer found ({way})")
        return _verdict(_normal(given, ignore_case) == wanted, given, wanted)

    return answer_reward("exact_answer", rule, column)


def numeric_answer(
    *, extract: str = "auto", units: bool = False, tolerance: float = 0.0, column: str = "answer"
) -> BuiltReward:
    """1 if the number found in the text equals the row's, else 0. A row whose answer is no number is an error.

    With `extract="auto"`, the last number of the text counts where no answer is marked. `tolerance` is relative to the
    row's number. `units` leaves words behind a number out.
    """
    way = checked_extraction(extract)
    if not 0 <= tolerance < 1:
        raise UserError(f"numeric_answer: tolerance must be at least 0 and below 1, got {tolerance}")

    def rule(text: str, answer: Any) -> Explained:
        wanted = parsed_number(reference_answer(answer), units=units)
        if wanted is None:
            raise ValueError(f"the row's answer {shortened(str(answer), 60)!r} is no number")
        number = _number(text, way, units)
        if number is None:
            return Explained(0.0, f"no number found ({way})")
        return _verdict(number.equals(wanted, tolerance), _shown(number), _shown(wanted))

    return answer_reward("numeric_answer", rule, column)


def _number(text: str, way: Extraction, units: bool) -> Number | None:
    if way == "auto" and marked_answer(text) is None:
        return last_number(said_text(text))
    given = extracted_answer(text, way)
    return None if given is None else parsed_number(given, units=units)


def _verdict(is_right: bool, given: str, wanted: str) -> Explained:
    given, wanted = shortened(given, 60), shortened(wanted, 60)
    return Explained(1.0, f"{given} is right") if is_right else Explained(0.0, f"{given} is not {wanted}")


def _normal(text: str, ignore_case: bool) -> str:
    line = " ".join(text.strip().strip("$").split())
    return line.casefold() if ignore_case else line


def _shown(number: Number) -> str:
    return f"{number.value}{'%' if number.is_percentage else ''}"
