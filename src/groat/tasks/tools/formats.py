"""How tools are shown to a model, and how it writes that it wants one.

`hermes`: the chat template tells of the tools, and a call is `<tool_call>{"name": ..., "arguments": ...}</tool_call>`,
as Qwen's and Hermes' models write it. `plain`: for models that know no tools; a system turn tells of them, a call is a
line `call NAME: ARGUMENT`, and results come in a user's turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from groat.tasks.tools.tool import Result, Tool
from groat.types import Message, ToolCall, Turn

MOST_CALLS = 8
"""In one turn; what comes behind them is not read."""
READ_CHARACTERS = 100_000
"""Only the first ones of a turn are read."""

_HERMES_OPEN, _HERMES_CLOSE = "<tool_call>", "</tool_call>"
_PLAIN_RULE = (
    "You can use tools. To use one, end your turn with a line `call NAME: ARGUMENT`; the next turn gives its result."
)
_PLAIN_CALL = re.compile(r"^[ \t]*call[ \t]+([A-Za-z_]\w{0,63})[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class BadCall:
    """Something that was meant as a call, and why it is none."""

    why: str


Tools = Mapping[str, Tool]


class ToolFormat(Protocol):
    """One way to write tools, calls and results."""

    def template_schemas(self, tools: Tools) -> tuple[Mapping[str, Any], ...]:
        """What the chat template is to tell of."""
        ...

    def explained(self, prompt: tuple[Message, ...], tools: Tools) -> tuple[Message, ...]:
        """The prompt with all that the template does not tell."""
        ...

    def written(self, call: ToolCall, tools: Tools) -> str:
        """A call as the model writes it."""
        ...

    def calls(self, text: str, tools: Tools) -> list[ToolCall | BadCall]:
        """What a turn of the model's asks for, in order."""
        ...

    def results(self, results: Sequence[Result]) -> tuple[Turn, ...]: ...


def example_of_results(format_: ToolFormat) -> tuple[Message, ...]:
    """Turns such as results are put in."""
    return tuple({"role": turn.role, "content": turn.content} for turn in format_.results([Result("1")]))


class Hermes:
    def template_schemas(self, tools: Tools) -> tuple[Mapping[str, Any], ...]:
        return tuple(tool.schema for tool in tools.values())

    def explained(self, prompt: tuple[Message, ...], tools: Tools) -> tuple[Message, ...]:
        del tools
        return prompt

    def written(self, call: ToolCall, tools: Tools) -> str:
        del tools
        content = json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
        return f"{_HERMES_OPEN}\n{content}\n{_HERMES_CLOSE}"

    def calls(self, text: str, tools: Tools) -> list[ToolCall | BadCall]:
        """A last call that is not closed counts too."""
        del tools
        parts = text[:READ_CHARACTERS].split(_HERMES_OPEN)[1:]
        return [_hermes_call(part.split(_HERMES_CLOSE)[0]) for part in parts[:MOST_CALLS]]

    def results(self, results: Sequence[Result]) -> tuple[Turn, ...]:
        return tuple(
            Turn(
                role="tool",
                content=f"Error: {result.text}" if result.has_failed else result.text,
                has_failed=result.has_failed,
            )
            for result in results
        )


class Plain:
    def template_schemas(self, tools: Tools) -> tuple[Mapping[str, Any], ...]:
        del tools
        return ()

    def explained(self, prompt: tuple[Message, ...], tools: Tools) -> tuple[Message, ...]:
        told = "\n".join([_PLAIN_RULE, *(_plain_description(tool) for tool in tools.values())])
        if prompt[0]["role"] == "system":
            return ({**prompt[0], "content": f"{prompt[0]['content']}\n\n{told}"}, *prompt[1:])
        return ({"role": "system", "content": told}, *prompt)

    def written(self, call: ToolCall, tools: Tools) -> str:
        [*names] = tools[call.name].properties
        if len(names) == 1 and isinstance(call.arguments.get(names[0]), str):
            return f"call {call.name}: {call.arguments[names[0]]}"
        return f"call {call.name}: {json.dumps(dict(call.arguments), ensure_ascii=False)}"

    def calls(self, text: str, tools: Tools) -> list[ToolCall | BadCall]:
        """An argument goes on to the next call or the end of the turn."""
        starts = list(_PLAIN_CALL.finditer(text[:READ_CHARACTERS]))
        ends = [*(start.start() for start in starts[1:]), READ_CHARACTERS]
        return [
            _plain_call(start[1], text[start.end() : end].strip(), tools)
            for start, end in list(zip(starts, ends, strict=False))[:MOST_CALLS]
        ]

    def results(self, results: Sequence[Result]) -> tuple[Turn, ...]:
        lines = [f"{'error' if result.has_failed else 'result'}: {result.text}" for result in results]
        failed = any(result.has_failed for result in results)
        return (Turn(role="user", content="\n".join(lines), has_failed=failed),)


def format_for(name: str, template_source: str) -> ToolFormat:
    """`auto`: the one that a model with this chat template was taught."""
    if name == "auto":
        name = "hermes" if _HERMES_OPEN in template_source else "plain"
    return {"hermes": Hermes, "plain": Plain}[name]()


def _hermes_call(text: str) -> ToolCall | BadCall:
    content = _json(text)
    if not isinstance(content, dict):
        return BadCall("a call must be JSON such as " + '{"name": "...", "arguments": {...}}')
    named = cast("dict[str, Any]", content)
    name, arguments = named.get("name"), named.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return BadCall("a call needs a name (text) and arguments (an object)")
    return ToolCall(name=name, arguments=cast("dict[str, Any]", arguments))


def _plain_call(name: str, argument: str, tools: Tools) -> ToolCall | BadCall:
    properties = tools[name].properties if name in tools else {}
    content = _json(argument)
    if isinstance(content, dict) and (len(properties) != 1 or set(cast("dict[str, Any]", content)) <= set(properties)):
        return ToolCall(name=name, arguments=cast("dict[str, Any]", content))
    if name in tools and len(properties) == 1:
        [(only, schema)] = properties.items()
        return ToolCall(name=name, arguments={only: argument if schema.get("type") == "string" else content})
    if name in tools and properties:
        return BadCall(f"{name} takes several arguments: write them as JSON with {', '.join(properties)}")
    return ToolCall(name=name, arguments={})


def _plain_description(tool: Tool) -> str:
    parts = [f"- call {tool.name}: {', '.join(tool.properties)}. {tool.description}"]
    if len(tool.properties) > 1:
        parts.append("The arguments are one JSON object.")
    parts += [
        f"{name}: {schema['description']}." for name, schema in tool.properties.items() if schema.get("description")
    ]
    return " ".join(parts)


def _json(text: str) -> Any:
    """What the text says as JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
