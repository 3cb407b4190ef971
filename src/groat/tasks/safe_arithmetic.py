"""Values of expressions such as `(8 - 3) * 4 / 2`, exactly, without running anything."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

LONGEST_EXPRESSION = 200
LARGEST_NUMBER = 10**9
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00f7": "/", "\u2212": "-"})


class NoExpressionError(ValueError):
    """Why a text is no expression of whole numbers and + - * /, or has no value."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    value: Fraction
    numbers: tuple[int, ...]
    """The whole numbers written in it, from left to right."""


def evaluated(expression: str) -> Evaluated:
    """The value of whole numbers, + - * /, signs and parentheses; NoExpressionError for anything else."""
    if len(expression) > LONGEST_EXPRESSION:
        raise NoExpressionError(f"longer than {LONGEST_EXPRESSION} characters")
    try:
        tree = ast.parse(expression.translate(_SIGNS).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoExpressionError("no arithmetic expression") from error
    numbers: list[int] = []
    return Evaluated(_value(tree, numbers), tuple(numbers))


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    """Appends the numbers it comes across."""
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if right == 0 and isinstance(node.op, ast.Div):
            raise NoExpressionError("divides by zero")
        return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand, numbers)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value <= LARGEST_NUMBER:
        numbers.append(node.value)
        return Fraction(node.value)
    raise NoExpressionError(f"{ast.unparse(node)[:40]} is neither a whole number nor one of + - * /")
