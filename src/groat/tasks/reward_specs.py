"""Reading how a recipe names a reward: `name`, `name(option=value)`, with rewards inside rewards.

Such as `gate(math_answer(decimals=3), when=think_format)`. The text is parsed, never run: options are literals, lists
of them, or other rewards.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from groat.types import UserError

LONGEST_SPEC = 4000
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def built_from(spec: str, make: Callable[[str, list[Any], Mapping[str, Any]], Any], file: Callable[[str], Any]) -> Any:
    """Calls `make(name, arguments, options)` for every reward in the text, from the innermost outwards, and `file` for
    every quoted `path/to/file.py:function`."""
    if len(spec) > LONGEST_SPEC:
        raise UserError(f"a reward is longer than {LONGEST_SPEC} characters: {spec[:60]}...")
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unreadable(spec, "it cannot be parsed") from error

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            options = {keyword.arg: value(keyword.value) for keyword in node.keywords if keyword.arg is not None}
            return make(node.func.id, [value(argument) for argument in node.args], options)
        if isinstance(node, ast.Name):
            return _WORDS[node.id] if node.id in _WORDS else make(node.id, [], {})
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ".py:" in node.value:
            return file(node.value)
        if isinstance(node, ast.List | ast.Tuple):
            return [value(item) for item in node.elts]
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise _unreadable(spec, f"`{ast.unparse(node)[:60]}` is no value") from error

    return value(tree)


def _unreadable(spec: str, what: str) -> UserError:
    return UserError(
        f"the reward {spec[:100]!r} cannot be read, {what}: write a name, or name(option=value, ...), such as "
        "soft_overlong(max_length=512, cache=128)"
    )
