"""JSON schemas of Python functions: from type hints and docstrings in Google's style, as transformers'
get_json_schema makes them."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from groat.types import UserError

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_SECTION = re.compile(r"^(?P<name>Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Notes?):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"^(?P<name>\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(?P<text>.*)$")


def described(function: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """What a function does, and the schema of its arguments; UserError where hints or a docstring are missing."""
    name = getattr(function, "__name__", type(function).__name__)
    summary, of_arguments = _read_docstring(inspect.getdoc(function) or "")
    if not summary:
        raise UserError(f"the tool {name} has no docstring: say in it what the tool does, which the model is told")
    hints = _hints(function, name)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise UserError(f"the tool {name} takes {parameter}: models give arguments by name, one by one")
        if parameter.name not in hints:
            raise UserError(f"the tool {name} has no type hint for {parameter.name}: write {parameter.name}: str")
        properties[parameter.name] = json_type(hints[parameter.name], f"{name}, {parameter.name}")
        if text := of_arguments.get(parameter.name):
            properties[parameter.name]["description"] = text
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return summary, schema | ({"required": required} if required else {})


def json_type(hint: Any, where: str) -> dict[str, Any]:
    """The schema of a type hint: plain types, lists, mappings with text keys, Literal, Optional and unions of these."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is Literal:
        kinds = sorted({_PLAIN[type(value)] for value in arguments})
        return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _union([one for one in arguments if one is not type(None)], type(None) in arguments, where)
    if origin is list:
        return {"type": "array", "items": json_type(arguments[0], where)}
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": json_type(arguments[1], where)}
    raise UserError(f"the type hint {hint} (tool {where}) has no JSON type: use str, int, float, bool, list or dict")


def _union(hints: list[Any], is_nullable: bool, where: str) -> dict[str, Any]:
    schemas = [json_type(hint, where) for hint in hints]
    if len(schemas) == 1:
        joined = schemas[0]
    elif all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        joined = {"type": sorted(schema["type"] for schema in schemas)}
    else:
        joined = {"anyOf": schemas}
    return joined | ({"nullable": True} if is_nullable else {})


def _hints(function: Callable[..., Any], name: str) -> Mapping[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(target)
    except (NameError, TypeError) as error:
        raise UserError(f"the type hints of the tool {name} cannot be read: {error}") from error


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the first section, and the texts of the arguments."""
    sections = list(_SECTION.finditer(text))
    summary = text[: sections[0].start()] if sections else text
    ends = [*(section.start() for section in sections[1:]), len(text)]
    for section, end in zip(sections, ends, strict=False):
        if section["name"] in ("Args", "Arguments", "Parameters"):
            return summary.strip(), _arguments(text[section.end() : end])
    return summary.strip(), {}


def _arguments(text: str) -> dict[str, str]:
    """A line that is indented further goes on with the argument before it."""
    lines = [line for line in inspect.cleandoc(text).split("\n") if line.strip()]
    found: dict[str, str] = {}
    name = None
    for line in lines:
        start = _ARGUMENT.match(line)
        if start is not None:
            name = start["name"].lstrip("*")
            found[name] = start["text"].strip()
        elif name is not None:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
