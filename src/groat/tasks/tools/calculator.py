"""A calculator: + - * /, parentheses and decimals, exactly, without running anything."""

from __future__ import annotations

import re
from fractions import Fraction

from groat.tasks.safe_arithmetic import LONGEST_EXPRESSION, NoExpressionError, evaluated
from groat.tasks.tools.tool import Tool, ToolError

_SIGNIFICANT_DIGITS = 10
_DECIMALS = re.compile(r"(\d*)\.(\d+)")
_COMMAS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")


def calculator() -> Tool:
    return Tool(
        name="calculator",
        description="The value of an arithmetic expression of numbers, + - * / and parentheses.",
        parameters={
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "Such as (12 + 8) * 3.5"}},
            "required": ["expression"],
        },
        run=value_of,
    )


def value_of(expression: str) -> str:
    """Such as "70" or "0.3333333333"; ToolError where it has none. A trailing `=` is overlooked."""
    if len(expression) > LONGEST_EXPRESSION:
        raise ToolError(f"the expression is longer than {LONGEST_EXPRESSION} characters")
    plain = _COMMAS.sub("", expression.strip().removesuffix("=").rstrip())
    try:
        return _shown(evaluated(_DECIMALS.sub(_as_fraction, plain)).value)
    except NoExpressionError as error:
        raise ToolError(str(error)) from error


def _as_fraction(decimal: re.Match[str]) -> str:
    whole, digits = decimal.groups()
    return f"({int(whole + digits)}/{10 ** len(digits)})"


def _shown(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.{_SIGNIFICANT_DIGITS}g}"
