"""Turning away what no algebra system should be asked, before it is parsed. Linear in the length of the text."""

from __future__ import annotations

import re

LONGEST_CHARACTERS = 2000
DEEPEST = 15
MOST_POWERS = 40
_LONG_NUMBER = re.compile(r"[0-9]{400}")
_LARGE_EXPONENT = re.compile(r"(?:\^|\*\*)[ {(+-]{0,8}[0-9][0-9,]{5}|[0-9.][eE][+-]?[0-9]{5}")
_TOWER = re.compile(r"(?:(?:\^|\*\*)[ {(+-]{0,8}(?:[0-9a-zA-Z]{1,9}|\\[a-z]{1,9})[ ]?){3}")
_LARGE_FACTORIAL = re.compile(r"[0-9]{5}[ })]{0,4}!|![ )}]{0,4}!")
_CODE = re.compile(r"__|\b(?:import|lambda|eval|exec|getattr|globals|subprocess|os\.|sys\.)")


def refusal(expression: str) -> str | None:
    """Why an expression is not looked at, or None. A refused answer is a wrong one, unless it is the row's, letter
    by letter."""
    if len(expression) > LONGEST_CHARACTERS:
        return f"longer than {LONGEST_CHARACTERS} characters"
    if _depth(expression) > DEEPEST:
        return f"nested deeper than {DEEPEST}"
    if expression.count("^") + expression.count("**") > MOST_POWERS:
        return f"more than {MOST_POWERS} powers"
    for pattern, what in _REFUSED:
        if pattern.search(expression):
            return what
    return None


def _depth(expression: str) -> int:
    deepest = depth = 0
    for character in expression:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth = max(depth - 1, 0)
    return deepest


_REFUSED = (
    (_LONG_NUMBER, "a number of 400 digits or more"),
    (_LARGE_EXPONENT, "too large an exponent"),
    (_TOWER, "a tower of powers"),
    (_LARGE_FACTORIAL, "a factorial too large"),
    (_CODE, "code, not mathematics"),
)
