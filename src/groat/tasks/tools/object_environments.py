"""Objects whose methods are tools, as TRL's `environment_factory` makes them: one for every completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from groat.tasks.environments import OwnEnvironmentError, Reply
from groat.tasks.tools.function_tool import OwnCalls, function_tool
from groat.tasks.tools.tool import Tool
from groat.tasks.tools.tool_environments import ToolEnvironments
from groat.types import Message, Problem, UserError

_NO_TOOLS = ("reset", "get_reward")


@dataclass(frozen=True, kw_only=True)
class ObjectEnvironments:
    """`make` gives an object for every completion. Its `reset` is called with the row (`prompt` and all columns, by
    name), and what it returns, None or a text, stands at the end of the prompt. Its public methods are the tools.

    All completions of a row have one prompt, so `reset` must return the same text for the same row.
    """

    make: Callable[[], Any]
    tools: ToolEnvironments
    """Those that belong to no object, and the methods of one, which are never called."""
    calls: OwnCalls
    said: dict[tuple[str, str], str | None] = field(default_factory=dict[tuple[str, str], str | None])
    """What `reset` returned for a problem first, by its id and prompt."""

    @property
    def max_turns(self) -> int:
        return self.tools.max_turns

    @property
    def schemas(self) -> tuple[Mapping[str, Any], ...]:
        return self.tools.schemas

    def for_template(self, source: str) -> ObjectEnvironments:
        return replace(self, tools=self.tools.for_template(source))

    def shown(self, problem: Problem) -> tuple[Message, ...]:
        observation = self._reset(self.make(), problem)
        self.said.setdefault(_key(problem), observation)
        return self.tools.shown(_with_observation(problem, observation))

    def example(self) -> tuple[Message, ...]:
        return self.tools.example()

    def begin(self, problem: Problem) -> ObjectConversation:
        """UserError where `reset` says something else than the prompt does."""
        environment = self.make()
        observation = self._reset(environment, problem)
        if observation != self.said.setdefault(_key(problem), observation):
            raise OwnEnvironmentError(
                f"reset() of the environment {type(environment).__name__} returned two texts for one row (problem "
                f"{problem.id}), but completions of a group share their prompt: let it depend on the row alone, for "
                "instance on a column with a seed"
            )
        methods = {
            name: replace(self.tools.tools[name], run=partial(self.calls.run, method))
            for name, method in tool_methods(environment).items()
        }
        tools = replace(self.tools, tools={**self.tools.tools, **methods})
        return ObjectConversation(environment=environment, tools=tools)

    def close(self) -> None:
        self.tools.close()
        self.calls.close()

    def _reset(self, environment: Any, problem: Problem) -> str | None:
        name = type(environment).__name__
        try:
            observation = environment.reset(prompt=problem.plain_prompt, **problem.columns)
        except Exception as error:
            raise OwnEnvironmentError(
                f"reset() of the environment {name} raised {type(error).__name__}: {str(error)[:300]} (problem "
                f"{problem.id}). It is called with the row, by name: take what it does not need as **kwargs"
            ) from error
        if observation is None or isinstance(observation, str):
            return observation
        raise OwnEnvironmentError(
            f"reset() of the environment {name} returned a {type(observation).__name__}, not a text or None (problem "
            f"{problem.id})"
        )


@dataclass(frozen=True, kw_only=True)
class ObjectConversation:
    environment: Any
    tools: ToolEnvironments

    def reply(self, text: str) -> Reply | None:
        return self.tools.reply(text)


def object_environments(
    make: Callable[[], Any], others: Mapping[str, Tool], max_turns: int, seconds: float
) -> ObjectEnvironments:
    """Of a factory, with tools that belong to no object. One object is made here, to see what it can do."""
    probe = make()
    name = type(probe).__name__
    if not callable(getattr(probe, "reset", None)):
        raise UserError(f"environment_factory makes a {name}, which has no method reset: write one, if only to return")
    methods = {method: function_tool(bound, seconds) for method, bound in tool_methods(probe).items()}
    if twice := sorted(set(methods) & set(others)):
        raise UserError(f"{name} has a method {twice[0]}, and tools= a tool of that name: rename one")
    if not (methods or others):
        raise UserError(f"{name} has no public method besides reset: a model would have no tool to call")
    tools = ToolEnvironments(tools={**others, **methods}, max_turns=max_turns)
    return ObjectEnvironments(make=make, tools=tools, calls=OwnCalls(seconds))


def tool_methods(environment: Any) -> dict[str, Callable[..., Any]]:
    """Its public methods, but for those that are called by the trainer. Looked up on the class, so that no property is
    asked for."""
    return {
        name: getattr(environment, name)
        for name, _ in inspect.getmembers(type(environment), inspect.isfunction)
        if not name.startswith("_") and name not in _NO_TOOLS
    }


def own_reward(make: Callable[[], Any]) -> Callable[..., Any] | None:
    """A reward function that asks each object's `get_reward`, named after the class; None where there is none."""
    probe = make()
    if not callable(getattr(probe, "get_reward", None)):
        return None

    def rewards(environments: list[Any], **_: Any) -> list[float]:
        return [environment.get_reward() for environment in environments]

    async def async_rewards(environments: list[Any], **_: Any) -> list[float]:
        return [await environment.get_reward() for environment in environments]

    function = async_rewards if inspect.iscoroutinefunction(probe.get_reward) else rewards
    function.__name__ = type(probe).__name__
    return function


def _key(problem: Problem) -> tuple[str, str]:
    return problem.id, str(problem.plain_prompt)


def _with_observation(problem: Problem, observation: str | None) -> Problem:
    if observation is None or isinstance(problem.prompt, str):
        return problem
    *before, last = problem.prompt
    return replace(problem, prompt=(*before, {**last, "content": last["content"] + observation}))
