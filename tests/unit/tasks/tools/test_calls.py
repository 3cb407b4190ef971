"""Calling tools: whatever a model writes and whatever a tool does becomes a text."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from groat.tasks.tools import Tool, ToolEnvironments, ToolError, function_tool
from groat.tasks.tools.calculator import calculator
from groat.tasks.tools.formats import Hermes, Plain
from groat.types import Problem, ToolCall

HERMES = "{% if tools %}<tool_call>{% endif %}"


def add(a: int, b: int) -> int:
    """The sum.

    Args:
        a: One.
        b: Another.
    """
    return a + b


def fails(how: str) -> Any:
    """Goes wrong.

    Args:
        how: In which way.
    """
    match how:
        case "raise":
            raise RuntimeError("boom " + "x" * 1000)
        case "exit":
            raise SystemExit(3)
        case "hang":
            time.sleep(30)
        case "flood":
            return "y" * 1_000_000
        case "set":
            return {1}
        case "characters":
            return "a\ud800b\ufdd0c\0d"
        case _:
            raise ToolError("said so")


async def waits(seconds: float) -> str:
    """Waits.

    Args:
        seconds: How long.
    """
    await asyncio.sleep(seconds)
    return "waited"


@pytest.fixture
def environments() -> Iterator[ToolEnvironments]:
    tools = [calculator(), function_tool(add), function_tool(fails, 0.3), function_tool(waits, 0.3)]
    made = ToolEnvironments(tools={tool.name: tool for tool in tools}, max_turns=4, most_characters=100)
    yield made
    made.close()


def hermes(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def replies(environments: ToolEnvironments, text: str, source: str = HERMES) -> list[str] | None:
    reply = environments.for_template(source).begin(Problem(id="p", prompt="")).reply(text)
    return None if reply is None else [turn.content for turn in reply.turns]


def test_results_of_several_calls_come_in_order(environments: ToolEnvironments):
    text = f"Let me see. {hermes('add', a=2, b=3)} and\n{hermes('calculator', expression='2 * 4')}"
    reply = environments.for_template(HERMES).reply(text)
    assert reply is not None
    assert [(turn.role, turn.content, turn.has_failed) for turn in reply.turns] == [
        ("tool", "5", False),
        ("tool", "8", False),
    ]
    assert reply.calls == (
        ToolCall(name="add", arguments={"a": 2, "b": 3}),
        ToolCall(name="calculator", arguments={"expression": "2 * 4"}),
    )


def test_a_turn_without_a_call_ends_the_conversation(environments: ToolEnvironments):
    assert replies(environments, "It is 5.") is None
    assert replies(environments, "It is 5.", "") is None
    assert replies(environments, "We call calculators: often", "") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<tool_call>{'name': 'add'}</tool_call>", "must be JSON"),
        ("<tool_call>", "must be JSON"),
        ('<tool_call>["add"]', "must be JSON"),
        ("<tool_call>" + "[" * 100_000, "must be JSON"),
        ('<tool_call>{"name": 1}</tool_call>', "needs a name"),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "needs a name"),
        (hermes("addd", a=1, b=2), "there is no tool 'addd'; there are calculator, add, fails, waits"),
        (hermes("add", a=1), "add needs 'b'; it takes a, b"),
        (hermes("add", a=1, b=2, c=3), "add has no argument 'c'; it takes a, b"),
        (hermes("add", a="1", b=2), "add: a must be a integer"),
        (hermes("add", a=True, b=2), "add: a must be a integer"),
        (hermes("calculator", expression="2 +"), "no arithmetic expression"),
        (hermes("fails", how="raise"), "RuntimeError: boom xxx"),
        (hermes("fails", how="exit"), "SystemExit: 3"),
        (hermes("fails", how="hang"), "no result within 0.3 s"),
        (hermes("fails", how="other"), "ToolError: said so"),
        (hermes("waits", seconds=20.0), "no result within 0.3 s"),
    ],
)
def test_mistakes_are_told_to_the_model(environments: ToolEnvironments, text: str, told: str):
    reply = environments.for_template(HERMES).reply(text)
    assert reply is not None
    [turn] = reply.turns
    assert turn.content.startswith("Error: ")
    assert told in turn.content
    assert turn.has_failed
    assert len(turn.content) <= 400
    assert replies(environments, hermes("add", a=1, b=2)) == ["3"]


def test_results_of_any_kind_and_length_become_texts(environments: ToolEnvironments):
    assert replies(environments, hermes("fails", how="flood")) == ["y" * 100 + "... (999900 characters more)"]
    assert replies(environments, hermes("fails", how="set")) == ['"{1}"']
    assert replies(environments, hermes("fails", how="characters")) == ["a\ufffdb\ufffdc\ufffdd"]
    assert replies(environments, hermes("waits", seconds=0.01)) == ["waited"]


def test_arguments_may_come_as_json_in_a_text(environments: ToolEnvironments):
    text = json.dumps({"name": "add", "arguments": json.dumps({"a": 1, "b": 2})})
    assert replies(environments, f"<tool_call>\n{text}\n</tool_call>") == ["3"]


def test_no_more_than_eight_calls_are_read(environments: ToolEnvironments):
    assert replies(environments, hermes("add", a=1, b=1) * 50) == ["2"] * 8


def test_plain_calls(environments: ToolEnvironments):
    assert replies(environments, "call calculator: 2 + 3", "") == ["result: 5"]
    assert replies(environments, 'First\ncall calculator: 2 + 3\ncall add: {"a": 4, "b": 5}', "") == [
        "result: 5\nresult: 9"
    ]
    assert replies(environments, "call add: 4 and 5", "") == [
        "error: add takes several arguments: write them as JSON with a, b"
    ]
    assert replies(environments, "call waits: 0.01", "") == ["result: waited"]
    assert replies(environments, "call cook: an egg", "") == [
        "error: there is no tool 'cook'; there are calculator, add, fails, waits"
    ]


def test_an_argument_may_have_several_lines():
    tools = {
        "echo": Tool(name="echo", description="", parameters={"properties": {"text": {"type": "string"}}}, run=str)
    }
    calls = Plain().calls("Now\ncall echo: a\n  b\n\nc\ncall echo: d", tools)
    assert calls == [
        ToolCall(name="echo", arguments={"text": "a\n  b\n\nc"}),
        ToolCall(name="echo", arguments={"text": "d"}),
    ]


def test_what_is_written_is_read_again():
    tools = {tool.name: tool for tool in (calculator(), function_tool(add))}
    for tool_format in (Hermes(), Plain()):
        for call in (
            ToolCall(name="calculator", arguments={"expression": "2 + 3"}),
            ToolCall(name="add", arguments={"a": 1, "b": -2}),
        ):
            assert tool_format.calls(tool_format.written(call, tools), tools) == [call]


def test_noise_is_survived(environments: ToolEnvironments):
    """2000 turns put together from pieces of calls: each is answered, or is no call."""
    pieces = [
        *("<tool_call>", "</tool_call>", '{"name":', '"add"', ', "arguments":', '{"a": 1, "b": 2}', "}", "call add:"),
        *("\n", "call ", "calculator: ", "1e999", "NaN", "[", "\\ud800", '"', "null", "9" * 5000),
    ]
    generator = random.Random(0)
    answered = 0
    for number in range(2000):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 12)))
        told = replies(environments, text, HERMES if number % 2 else "")
        answered += told is not None
        assert told is None or all(len(one) < 3000 for one in told)
    assert answered > 300
