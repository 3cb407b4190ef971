"""A tool, and calling it: whatever goes wrong becomes a text for the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from groat.tasks.environments import cleaned
from groat.types import ToolCall, UserError

_LONGEST_ERROR = 300
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class ToolError(Exception):
    """What a tool tells the model where it has no result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`run` is called with the arguments by name; what it raises is told to the model, a ToolError in its own words.

    It has to bound its own time, as `function_tool` does for functions.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments: an object with `properties` and `required`."""
    run: Callable[..., Any]
    close: Callable[[], None] = lambda: None
    """Gives back what the tool holds; a later call takes it again."""

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    @property
    def properties(self) -> Mapping[str, Mapping[str, Any]]:
        return self.parameters.get("properties", {})


@dataclass(frozen=True, slots=True)
class Result:
    """What the model is told."""

    text: str
    has_failed: bool = False


def called(tools: Mapping[str, Tool], call: ToolCall, most_characters: int) -> Result:
    """The result of a call, at most so many characters and a note."""
    tool = tools.get(call.name)
    if tool is None:
        return Result(f"there is no tool {call.name[:40]!r}; there are {', '.join(tools)}", has_failed=True)
    if (mistake := wrong_arguments(tool, call.arguments)) is not None:
        return Result(mistake, has_failed=True)
    try:
        text = _as_text(tool.run(**call.arguments))
    except ToolError as error:
        return Result(cleaned(str(error))[:_LONGEST_ERROR], has_failed=True)
    except UserError:
        raise  # the machine is to blame, not the call
    except Exception as error:
        return Result(cleaned(f"{type(error).__name__}: {error}")[:_LONGEST_ERROR], has_failed=True)
    return Result(_cut(cleaned(text), most_characters))


def wrong_arguments(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with them, or None."""
    names = ", ".join(tool.properties) or "no arguments"
    if unknown := [name for name in arguments if name not in tool.properties]:
        return f"{tool.name} has no argument {str(unknown[0])[:40]!r}; it takes {names}"
    if missing := [name for name in tool.parameters.get("required", ()) if name not in arguments]:
        return f"{tool.name} needs {missing[0]!r}; it takes {names}"
    for name, value in arguments.items():
        kinds = _kinds(tool.properties[name])
        if kinds and not any(_is_kind(value, kind) for kind in kinds):
            return f"{tool.name}: {name} must be a {' or a '.join(kinds)}"
        choices = tool.properties[name].get("enum")
        if choices is not None and value not in choices:
            return f"{tool.name}: {name} must be one of {', '.join(map(str, choices))}"
    return None


def _kinds(schema: Mapping[str, Any]) -> Sequence[str]:
    kind = schema.get("type")
    kinds = [kind] if isinstance(kind, str) else list(cast("Sequence[str]", kind or ()))
    return [*kinds, "null"] if kinds and schema.get("nullable") else kinds


def _is_kind(value: Any, kind: str) -> bool:
    if isinstance(value, bool):  # an int to Python, not to JSON
        return kind == "boolean"
    return isinstance(value, _KINDS.get(kind, (object,)))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, most_characters: int) -> str:
    if len(text) <= most_characters:
        return text
    return f"{text[:most_characters]}... ({len(text) - most_characters} characters more)"
