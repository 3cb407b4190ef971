"""The arithmetic task's word problems with numbers of two and three digits, made for a calculator.

With the tool, worked examples call it; without it, they are written out as in the arithmetic task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from groat.tasks.arithmetic import Sizes
from groat.tasks.tools.tool_environments import CALL_ROLE
from groat.types import Message, UserError

LARGE = Sizes(
    first={"+": (100, 999), "-": (500, 999), "*": (11, 99)},
    later={"+": (11, 499), "-": (11, 249), "*": (11, 99)},
    largest_result=9999,
    name="large-",
)


class Example(NamedTuple):
    text: str
    expression: str
    steps: str
    answer: str


WORKED_EXAMPLES = (
    Example("Ada had 917 pears and ate 248. How many pears are left?", "917 - 248", "917 - 248 = 669", "669"),
    Example(
        "Cleo has 645 ribbons, buys 280 more, loses 72 and gives away 316. How many ribbons are left?",
        "645 + 280 - 72 - 316",
        "645 + 280 = 925\n925 - 72 = 853\n853 - 316 = 537",
        "537",
    ),
    Example(
        "Ben has 36 jars of 48 shells and finds 59 more. How many shells does Ben have now?",
        "36 * 48 + 59",
        "36 * 48 = 1728\n1728 + 59 = 1787",
        "1787",
    ),
)


_NUMBER = re.compile(r"\d+")


def called_numbers(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward function: 1 if a call's expression holds the numbers of the question, each once, and no others."""
    wanted = [sorted(_NUMBER.findall(prompt[-1]["content"])) for prompt in prompts]
    return [
        float(any(sorted(_NUMBER.findall(expression)) == numbers for expression in _expressions(turns)))
        for turns, numbers in zip(completions, wanted, strict=True)
    ]


def called_answer(completions: Sequence[Any], answer: Sequence[Any], **_: Any) -> list[float]:
    """A reward function: 1 if a result of the calculator's is the answer."""
    return [
        float(any(_NUMBER.findall(text)[-1:] == [str(wanted)] for text in _replies(turns)))
        for turns, wanted in zip(completions, answer, strict=True)
    ]


def large_opening(num_examples: int, system_prompt: str | None, *, with_calls: bool) -> tuple[Message, ...]:
    """The turns put before every problem: the system prompt, and worked examples as a chat that went well."""
    if num_examples > len(WORKED_EXAMPLES):
        raise UserError(
            f"task.num_examples is {num_examples}, but the large_arithmetic task has {len(WORKED_EXAMPLES)} worked "
            f"examples: use {len(WORKED_EXAMPLES)} or fewer"
        )
    turns: list[Message] = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    for example in WORKED_EXAMPLES[:num_examples]:
        turns += _with_call(example) if with_calls else _written_out(example)
    return tuple(turns)


def _expressions(turns: str | Sequence[Mapping[str, Any]]) -> list[str]:
    calls = [call for turn in turns if isinstance(turn, Mapping) for call in turn.get("tool_calls", ())]
    return [str(call["function"]["arguments"].get("expression", "")) for call in calls]


def _replies(turns: str | Sequence[Mapping[str, Any]]) -> list[str]:
    return [turn["content"] for turn in turns if isinstance(turn, Mapping) and turn["role"] != "assistant"]


def _with_call(example: Example) -> list[Message]:
    return [
        {"role": "user", "content": example.text},
        {"role": CALL_ROLE, "name": "calculator", "content": json.dumps({"expression": example.expression})},
        {"role": "tool", "content": example.answer},
        {"role": "assistant", "content": f"Answer: {example.answer}"},
    ]


def _written_out(example: Example) -> list[Message]:
    return [
        {"role": "user", "content": example.text},
        {"role": "assistant", "content": f"{example.steps}\nAnswer: {example.answer}"},
    ]
