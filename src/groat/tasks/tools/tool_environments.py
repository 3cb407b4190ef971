"""Environments in which the model may call tools: it is answered as long as it calls some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from groat.tasks.environments import Reply
from groat.tasks.tools.formats import BadCall, ToolFormat, example_of_results, format_for
from groat.tasks.tools.tool import Result, Tool, called
from groat.types import Message, Problem, ToolCall, Turn, UserError

CALL_ROLE = "call"
"""Role of a chat turn that holds a worked example of a call: the tool's `name`, and its arguments as JSON."""


@dataclass(frozen=True, kw_only=True)
class ToolEnvironments:
    """`tools` by name. A turn without a call ends the conversation."""

    tools: Mapping[str, Tool]
    max_turns: int
    most_characters: int = 2000
    """Of a result; the rest is cut off."""
    format_name: Literal["auto", "hermes", "plain"] = "auto"
    _format: ToolFormat = field(default_factory=lambda: format_for("plain", ""), repr=False)

    def for_template(self, source: str) -> ToolEnvironments:
        return replace(self, _format=format_for(self.format_name, source))

    @property
    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return self._format.template_schemas(self.tools)

    def shown(self, problem: Problem) -> tuple[Message, ...]:
        prompt = problem.prompt
        if isinstance(prompt, str):
            raise UserError(
                f"task.tools needs chat turns, but a prompt is plain text ({prompt[:40]!r}): write prompts as "
                '[{"role": "user", "content": ...}], or set task.chat for a file'
            )
        return self._format.explained(tuple(one for message in prompt for one in self._shown_turn(message)), self.tools)

    def example(self) -> tuple[Message, ...]:
        return example_of_results(self._format)

    def begin(self, problem: Problem) -> ToolEnvironments:
        """Tools remember nothing: one environment does for all."""
        del problem
        return self

    @property
    def environment(self) -> None:
        return None

    def reply(self, text: str) -> Reply | None:
        found = self._format.calls(text, self.tools)
        if not found:
            return None
        results = [self._result(call) for call in found]
        calls = tuple(call for call in found if isinstance(call, ToolCall))
        return Reply(turns=self._format.results(results), calls=calls)

    def close(self) -> None:
        for tool in self.tools.values():
            tool.close()

    def _result(self, call: ToolCall | BadCall) -> Result:
        if isinstance(call, BadCall):
            return Result(call.why, has_failed=True)
        return called(self.tools, call, self.most_characters)

    def _shown_turn(self, message: Message) -> tuple[Message, ...]:
        """Worked examples are written in the model's own format."""
        if message["role"] == CALL_ROLE:
            call = ToolCall(name=message["name"], arguments=json.loads(message["content"]))
            return ({"role": "assistant", "content": self._format.written(call, self.tools)},)
        if message["role"] == "tool":
            return tuple(_message(turn) for turn in self._format.results([Result(message["content"])]))
        return (message,)


def _message(turn: Turn) -> Message:
    return {"role": turn.role, "content": turn.content}
