"""The built-in reward functions. Each reads a bounded part of the text and never evaluates it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

Completions = Sequence[str | Sequence[Mapping[str, str]]]

READ_CHARACTERS = 10_000
"""Only the last ones of a completion are looked at."""
MOST_STEPS = 20

# [0-9], not \d: digits of other scripts are no answer. Every repetition has an end, and none overlaps its neighbor.
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:,[0-9]{3}){0,4}(?:\.[0-9]{1,10})?")
_ANY_DIGITS = re.compile(r"(?<![0-9.,])-?[0-9][0-9,.]*")
_STEP = re.compile(r"([0-9]{1,6}) ?([-+*/]) ?([0-9]{1,6}) ?= ?(-?[0-9]{1,12})")


def correct_answer(completions: Completions, answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the number of the last `Answer: N` line is the answer, else 0."""
    return _scores(has_correct_answer, completions, answer)


def written_steps(completions: Completions, num_steps: Sequence[int] | None = None, **_: Any) -> list[float]:
    """1 if the text is true steps such as `5 + 3 = 8`, then `Answer: N` with the last result, no more; else 0.

    Where rows say how many steps they take (`num_steps`), other numbers of steps earn nothing: without that, one true
    step is the easiest way to this reward, and longer problems are never explored.
    """
    wanted = [None] * len(completions) if num_steps is None else num_steps
    return [
        1.0 if has_written_steps(completion_text(completion), number) else 0.0
        for completion, number in zip(completions, wanted, strict=True)
    ]


def right_steps(completions: Completions, solution: Sequence[str], **_: Any) -> list[float]:
    """The share of the solution's steps that the text writes, each in its place; extra steps count against it.

    A step whose sign and second number are right counts half, so that going on after a slip still pays.
    """
    return [
        share_of_right_steps(completion_text(completion), steps)
        for completion, steps in zip(completions, solution, strict=True)
    ]


def exact_match(completions: Completions, answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the text is the answer, surrounding blanks aside, else 0."""
    return _scores(is_exact_match, completions, answer)


def numeric_match(completions: Completions, answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the last number in the text equals the (last) number of the answer, else 0."""
    return _scores(is_numeric_match, completions, answer)


def answer_match(completions: Completions, answer: Sequence[Any], **_: Any) -> list[float | None]:
    """1 if the text is the answer, or its last number is the answer (or its `#### N`, as in GSM8K), else 0."""
    return _scores(is_answer_match, completions, answer)


def completion_text(completion: str | Sequence[Mapping[str, str]]) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def has_correct_answer(text: str, answer: Any) -> bool:
    given = _answer_line(text)
    expected = _number(str(answer).strip())
    return given is not None and given == expected


def has_written_steps(text: str, num_steps: int | None = None) -> bool:
    lines = text[: READ_CHARACTERS + 1].strip().split("\n")
    if num_steps is not None and len(lines) != num_steps + 1:
        return False
    if len(text) > READ_CHARACTERS or not 2 <= len(lines) <= MOST_STEPS + 1:
        return False
    results = [_step_result(line.strip()) for line in lines[:-1]]
    given = _answer_line(lines[-1])
    return None not in results and given is not None and given == results[-1]


def share_of_right_steps(text: str, solution: str) -> float:
    written, wanted = _step_lines(text[:READ_CHARACTERS]), _step_lines(solution)
    credit = sum(_step_credit(*pair) for pair in zip(written, wanted, strict=False))
    return credit / max(len(written), len(wanted), 1)


def is_exact_match(text: str, answer: Any) -> bool:
    return text.strip() == str(answer).strip()


def is_numeric_match(text: str, answer: Any) -> bool:
    given, expected = _last_number(text), _last_number(str(answer))
    return given is not None and given == expected


def is_answer_match(text: str, answer: Any) -> bool:
    expected = _number(str(answer).rpartition("####")[2].strip())
    return is_exact_match(text, answer) or (expected is not None and _last_number(text) == expected)


def _scores(
    is_right: Callable[[str, Any], bool], completions: Completions, answers: Sequence[Any]
) -> list[float | None]:
    """None where the row has no answer."""
    return [
        None if answer is None else 1.0 if is_right(completion_text(completion), answer) else 0.0
        for completion, answer in zip(completions, answers, strict=True)
    ]


def _step_credit(line: str, wanted: str) -> float:
    if line == wanted:
        return 1.0
    step, wanted_step = _STEP.fullmatch(line), _STEP.fullmatch(wanted)
    is_same_move = step is not None and wanted_step is not None and step.group(2, 3) == wanted_step.group(2, 3)
    return 0.5 if is_same_move else 0.0


def _step_lines(text: str) -> list[str]:
    """The lines before the answer, blanks aside."""
    lines = text.strip().split("\n")
    return [line.strip() for line in lines if not line.startswith("Answer:")]


def _answer_line(text: str) -> Decimal | None:
    """The number N of the last line that starts with `Answer:`, where nothing but N and a full stop follows."""
    for line in reversed(text[-READ_CHARACTERS:].split("\n")):
        if line.startswith("Answer:"):
            return _number(line.removeprefix("Answer:").strip().removesuffix("."))
    return None


def _last_number(text: str) -> Decimal | None:
    runs = _ANY_DIGITS.findall(text[-READ_CHARACTERS:])
    return _number(runs[-1].rstrip(".,")) if runs else None


def _number(text: str) -> Decimal | None:
    """None for what is no plain number, or one longer than any answer."""
    return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None


def _step_result(line: str) -> int | None:
    """c of a true line `a + b = c`; None for any other line."""
    step = _STEP.fullmatch(line)
    if step is None:
        return None
    left, operation, right, result = int(step[1]), step[2], int(step[3]), int(step[4])
    if operation == "/":
        return result if right != 0 and right * result == left else None
    value = {"+": left + right, "-": left - right, "*": left * right}[operation]
    return result if value == result else None
