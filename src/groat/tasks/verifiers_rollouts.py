"""Conversations with an environment of the package `verifiers`: its state, kept as its own loop would keep it.

What that loop has and this one does not: a client of a model server, log-probs and token ids in the trajectory.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, cast

from groat.tasks.environments import EXAMPLE, CheckedConversation, Conversation, OwnEnvironmentError, Reply
from groat.tasks.tools.formats import BadCall, ToolFormat, example_of_results, format_for
from groat.tasks.tools.tool import Result, Tool
from groat.tasks.verifiers_loading import plain_message
from groat.types import Message, Problem, ToolCall, Turn, UserError


class Coroutines:
    """One event loop in a thread of its own, in which all that an environment has of coroutines runs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def result(self, coroutine: Coroutine[Any, Any, Any], *, is_limited: bool = True) -> Any:
        """UserError where it takes longer than the time limit."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result(self._seconds if is_limited else None)
        except LateError:
            future.cancel()
            raise UserError(f"it took longer than {self._seconds:g} s (task.reward_timeout_seconds)") from None

    def close(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="groat verifiers", daemon=True).start()
            return self._loop


class VerifiersRollout:
    """One completion. `state` is what the environment and its rewards know of it."""

    def __init__(
        self, environment: Any, problem: Problem, loop: Coroutines, tools: Mapping[str, Tool], format_: ToolFormat
    ) -> None:
        self._environment = environment
        self.problem = problem
        self._loop = loop
        self._tools = tools
        self._format = format_
        self._messages: list[Any] = []
        """The prompt of the next turn."""
        self._num_turns = 0
        self._is_finished = False
        self.state: Any = loop.result(self._begun())

    def reply(self, text: str) -> Reply | None:
        messages = self._loop.result(self._replied(text))
        if messages is None:
            return None
        where = f"the environment {type(self._environment).__name__}"
        return Reply(
            turns=self._turns([plain_message(message, where) for message in messages]), calls=self._calls(text)
        )

    def finish(self, texts: Sequence[str]) -> None:
        """The completion has ended, with these turns of the model's; nothing where that was told before."""
        if not self._is_finished:
            self._is_finished = True
            self._loop.result(self._ended(texts))

    async def _begun(self) -> Any:
        columns = dict(self.problem.columns)
        row = {"answer": "", "info": {}, "example_id": 0, **columns, "prompt": self.problem.plain_prompt}
        state = await self._environment.init_state(row, _no_client(), "groat", {})
        self.state = state
        await self._guarded(self._set_up())
        self._messages = list(self.state["prompt"])
        return self.state

    async def _set_up(self) -> None:
        changed = await self._environment.setup_state(self.state)
        self.state = self.state if changed is None else changed

    async def _replied(self, text: str) -> list[Any] | None:
        await self._guarded(self._add(text))
        if await self._environment.is_completed(self.state):
            return None
        before = self._messages
        after = await self._guarded(self._environment.get_prompt_messages(self.state))
        if await self._environment.is_completed(self.state) or after is None:
            return None
        if len(after) <= len(before) or list(after[: len(before)]) != before:
            raise UserError(
                "it changed earlier messages (get_prompt_messages): groat's conversations only go on, what a model has "
                "read stays"
            )
        self._messages = list(after)
        return self._messages[len(before) :]

    async def _add(self, text: str) -> None:
        """A turn of the model's, as a step of the trajectory."""
        message = _as_environments(_assistant(text, self._calls(text), self._num_turns), self.state)
        step: dict[str, Any] = {
            "prompt": list(self._messages),
            "completion": [message],
            "response": None,
            "tokens": None,
            "reward": None,
            "advantage": None,
            "is_truncated": False,
            "trajectory_id": self.state.get("trajectory_id"),
            "extras": {},
        }
        self._num_turns += 1
        self._messages = [*self._messages, message]
        await self._environment.add_trajectory_step(self.state, step)

    async def _ended(self, texts: Sequence[str]) -> None:
        for text in texts[self._num_turns :]:
            await self._guarded(self._add(text))
        if not (self.state.get("is_completed") or await self._environment.is_completed(self.state)):
            self.state["is_truncated"] = True
            if (cleanup := getattr(self._environment, "_cleanup", None)) is not None:
                await cleanup(self.state)
        if (cleanup := getattr(self._environment, "cleanup", None)) is not None:
            await cleanup(self.state)
        await self._environment.render_completion(self.state)

    async def _guarded(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """An error that the package knows ends the conversation and is kept in the state, as in its own loop."""
        try:
            return await coroutine
        except Exception as error:
            if not _is_packages(error):
                raise
            self.state["error"] = error
            return None

    def _calls(self, text: str) -> tuple[ToolCall, ...]:
        found = self._format.calls(text, self._tools) if self._tools else []
        return tuple(call for call in found if not isinstance(call, BadCall))

    def _turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        turns: list[Turn] = []
        for is_tools, some in groupby(messages, lambda message: message["role"] == "tool"):
            if is_tools:
                turns += self._format.results([Result(message["content"]) for message in some])
            else:
                turns += [Turn(role=message["role"], content=message["content"]) for message in some]
        return tuple(turns)


@dataclass(frozen=True, kw_only=True)
class VerifiersEnvironments:
    """Conversations with one environment; what rewards get of each is its VerifiersRollout."""

    environment: Any
    loop: Coroutines
    max_turns: int
    format_name: str = "auto"
    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    """What the model is told of; the environment itself calls them."""
    _format: ToolFormat = field(default_factory=lambda: format_for("plain", ""), repr=False)

    @property
    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return self._format.template_schemas(self.tools) if self.tools else ()

    def for_template(self, source: str) -> VerifiersEnvironments:
        return replace(self, _format=format_for(self.format_name, source))

    def shown(self, problem: Problem) -> str | tuple[Message, ...]:
        prompt = problem.prompt
        return self._format.explained(prompt, self.tools) if self.tools and not isinstance(prompt, str) else prompt

    def example(self) -> tuple[Message, ...]:
        return example_of_results(self._format) if self.tools else EXAMPLE

    def begin(self, problem: Problem) -> Conversation:
        name = type(self.environment).__name__
        try:
            rollout = VerifiersRollout(self.environment, problem, self.loop, self.tools, self._format)
        except Exception as error:
            raise OwnEnvironmentError(
                f"the environment {name} could not begin, {type(error).__name__}: {str(error)[:300]} "
                f"(problem {problem.id})"
            ) from error
        return CheckedConversation(rollout, problem, name)

    def close(self) -> None:
        self.loop.close()


def told_tools(environment: Any) -> dict[str, Tool]:
    """Its tools by name, from `tool_defs` or, in earlier versions, `oai_tools`."""
    given = getattr(environment, "tool_defs", None) or getattr(environment, "oai_tools", None) or []
    tools = [_told(one) for one in given]
    return {tool.name: tool for tool in tools}


def _told(given: Any) -> Tool:
    plain = cast("Mapping[str, Any]", given if isinstance(given, Mapping) else given.model_dump())
    schema = plain.get("function", plain)
    return Tool(
        name=schema["name"],
        description=schema.get("description") or "",
        parameters=schema.get("parameters") or {"type": "object", "properties": {}},
        run=_called_by_the_environment,
    )


def _called_by_the_environment(**_: Any) -> Any:
    raise AssertionError


def _assistant(text: str, calls: Sequence[ToolCall], number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{number}_{place}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for place, call in enumerate(calls)
        ]
    return message


def _as_environments(message: dict[str, Any], state: Any) -> Any:
    """A mapping, or where the state's prompt is made of the package's own messages, one of these."""
    if all(isinstance(one, Mapping) for one in state["prompt"]):
        return message
    return importlib.import_module("verifiers.utils.message_utils").normalize_messages([message])[0]


def _is_packages(error: Exception) -> bool:
    return any(kind.__name__ == "Error" and kind.__module__.startswith("verifiers.") for kind in type(error).__mro__)


class _NoClient:
    """Stands where an environment keeps the client of its model server."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(
            f"it asks the client of a model server ({name}): groat has no server, its model is asked for whole turns "
            "only"
        )


def _no_client() -> Any:
    """Of the package's own type, where it has one and looks for it."""
    kind = getattr(sys.modules.get("verifiers"), "Client", None)
    if kind is None:
        return _NoClient()
    refusing = _NoClient()
    members = {"get_response": property(lambda _: refusing.get_response)}
    made = type("NoClient", (kind,), members)
    made.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    return made(refusing)
