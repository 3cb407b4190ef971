"""A reward for texts that a regular expression finds, with a bound on the time that finding takes."""

from __future__ import annotations

import re
from typing import Any

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.checked_rewards import Call, Checking, checked_reward
from groat.tasks.explained import Explained
from groat.types import UserError

LONGEST_TEXT = 200_000
"""Characters; a longer text does not match."""


def regex(
    *,
    pattern: str,
    full: bool = False,
    ignore_case: bool = False,
    timeout_seconds: float = 2.0,
    memory_mib: int = 512,
    num_workers: int = 2,
) -> BuiltReward:
    """1 if the pattern (Python's `re`; the dot matches line ends) is found in the text, else 0.

    `full`: the whole text must match, blanks around it aside. A pattern that goes through too many ways to match is
    given up after `timeout_seconds`, in a worker process: that text earns 0 and the reason says so.
    """
    try:
        re.compile(pattern)
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"regex: {pattern!r} is no regular expression: {error}") from error
    checking = Checking(
        rule="groat.tasks.patterns:judge",
        resident_mib=36,
        timeout_seconds=timeout_seconds,
        memory_mib=memory_mib,
        num_workers=num_workers,
    )

    def ask(text: str, _: Any) -> Call | Explained:
        if len(text) > LONGEST_TEXT:
            return Explained(0.0, f"longer than {LONGEST_TEXT} characters")
        return {"text": text, "pattern": pattern, "full": full, "ignore_case": ignore_case}

    return checked_reward("regex", checking, ask)


def judge(text: str, pattern: str, full: bool, ignore_case: bool) -> tuple[float, str]:
    """What the worker runs."""
    finder = re.compile(pattern, re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG))
    found = finder.fullmatch(text.strip()) if full else finder.search(text)
    return (1.0, f"matches at character {found.start()}") if found else (0.0, "does not match")
