"""Values as text, for both sides of the sandbox's border: only plain data crosses, and reading it runs nothing.

One JSON value for each: null, booleans, text, short numbers and lists are themselves (a tuple is a list); any other
value is an object with one key that names its type.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

MOST_LEVELS = 40
_EXACT_IN_JSON = 2**53


class NotPlainError(ValueError):
    """The value is not made of plain data alone, is nested too deeply, or the text is not of this format."""


def encode(value: Any) -> str:
    return json.dumps(_packed(value, MOST_LEVELS), allow_nan=False)


def decode(text: str) -> Any:
    try:
        return _unpacked(json.loads(text), MOST_LEVELS)
    except (ValueError, RecursionError, TypeError, KeyError, OverflowError) as error:
        raise NotPlainError(f"not readable: {type(error).__name__}") from error


def same(left: Any, right: Any) -> bool:
    """Equality of plain data as Python has it, except that a tuple equals a list with the same items, and floats may
    differ by 1e-6 of their size. Recursion is bounded: both sides came from `decode` or from JSON."""
    if isinstance(left, float) or isinstance(right, float):
        return _same_numbers(left, right)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        lefts, rights = cast("list[Any]", left), cast("list[Any]", right)
        return len(lefts) == len(rights) and all(map(same, lefts, rights))
    if isinstance(left, dict) and isinstance(right, dict):
        pairs, others = cast("dict[Any, Any]", left), cast("dict[Any, Any]", right)
        return pairs.keys() == others.keys() and all(same(value, others[key]) for key, value in pairs.items())
    return bool(left == right)


def _same_numbers(left: Any, right: Any) -> bool:
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return False
    try:
        return left == right or math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)
    except OverflowError:  # an int beyond every float
        return False


def _packed(value: Any, levels: int) -> Any:
    if levels == 0:
        raise NotPlainError("nested too deeply")
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _EXACT_IN_JSON else {"int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, str):
        return str(value)
    return _packed_together(value, levels - 1)


def _packed_together(value: Any, levels: int) -> Any:
    if isinstance(value, list | tuple):
        return [_packed(item, levels) for item in cast("list[Any]", value)]
    if isinstance(value, set | frozenset):
        return {"set": [_packed(item, levels) for item in cast("set[Any]", value)]}
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value)
        return {"dict": [[_packed(key, levels), _packed(item, levels)] for key, item in pairs.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [str(value.real), str(value.imag)]}
    raise NotPlainError(f"a {type(value).__name__} is not plain data")


def _unpacked(packed: Any, levels: int) -> Any:
    if levels == 0:
        raise NotPlainError("nested too deeply")
    if isinstance(packed, list):
        return [_unpacked(item, levels - 1) for item in cast("list[Any]", packed)]
    if not isinstance(packed, dict):
        return packed
    [(kind, content)] = cast("dict[str, Any]", packed).items()
    if kind == "set":
        return {_hashable(_unpacked(item, levels - 1)) for item in content}
    if kind == "dict":
        return {_hashable(_unpacked(key, levels - 1)): _unpacked(item, levels - 1) for key, item in content}
    return _unpacked_scalar(kind, content)


def _unpacked_scalar(kind: str, content: Any) -> Any:
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "complex":
        return complex(float(content[0]), float(content[1]))
    raise NotPlainError(f"no kind of value: {kind!r}")


def _hashable(value: Any) -> Any:
    """Keys and items of sets that were tuples."""
    return tuple(map(_hashable, cast("list[Any]", value))) if isinstance(value, list) else value
