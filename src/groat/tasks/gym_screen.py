"""Which answers reasoning-gym's scorers may see: nine of them evaluate an answer as Python code (version 0.1.25)."""

from __future__ import annotations

import re

from groat.tasks.math_screen import refusal

LONGEST_ANSWER = 20_000
EVALUATED_AS_LISTS = frozenset({"spiral_matrix", "binary_matrix", "string_insertion", "n_queens"})
EVALUATED_AS_ALGEBRA = frozenset(
    {"countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"}
)
_LIST = re.compile(r"""[\w\s,\[\]'"+-]*""", re.ASCII)  # no parentheses, no calls; no dots, no attributes
_ALGEBRA = re.compile(r"[0-9A-Za-z+\-*/^(). ,]*")
_ATTRIBUTE = re.compile(r"[A-Za-z)] *\.|\. *[A-Za-z(]")
_NAME = re.compile(r"[A-Za-z]+")
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "exp",
        "log",
        "ln",
        "sqrt",
        "Abs",
        "pi",
        "Integral",
    ]
)


def gym_refusal(dataset: str, answer: str) -> str | None:
    """Why an answer is not given to the dataset's scorer, or None."""
    if len(answer) > LONGEST_ANSWER:
        return f"longer than {LONGEST_ANSWER} characters"
    if dataset in EVALUATED_AS_LISTS and _LIST.fullmatch(answer) is None:
        return "more than words, numbers and lists of them"
    if dataset in EVALUATED_AS_ALGEBRA:
        return _algebra_refusal(answer)
    return None


def _algebra_refusal(answer: str) -> str | None:
    if _ALGEBRA.fullmatch(answer) is None or _ATTRIBUTE.search(answer):
        return "more than an algebraic expression"
    unknown = [name for name in _NAME.findall(answer) if len(name) > 1 and name not in _FUNCTIONS]
    return f"{unknown[0][:40]} is no function of algebra" if unknown else refusal(answer)
