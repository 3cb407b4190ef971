"""What a task's completions talk to, as a recipe names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groat.config.tree import TaskConfig
from groat.tasks.environments import Environments, OwnEnvironments
from groat.tasks.reward_loading import load_own
from groat.tasks.tools.calculator import calculator
from groat.tasks.tools.function_tool import function_tool
from groat.tasks.tools.python_tool import python_tool
from groat.tasks.tools.tool import Tool
from groat.tasks.tools.tool_environments import ToolEnvironments
from groat.types import UserError

BUILT_IN: Mapping[str, Callable[[float], Tool]] = {
    "calculator": lambda _: calculator(),
    "python": python_tool,
}
"""By the name of `task.tools`; called with the seconds that one use may take."""


def environments_from(config: TaskConfig) -> Environments | None:
    """None: completions have one turn."""
    if config.environment is not None:
        return OwnEnvironments(make=load_own(config.environment, "an environment"), max_turns=config.max_turns)
    if not config.tools:
        return None
    return ToolEnvironments(
        tools=tools_from(config.tools, config.tool_timeout_seconds),
        max_turns=config.max_turns,
        most_characters=config.max_tool_characters,
        format_name=config.tool_format,
    )


def tools_from(given: Sequence[str | Callable[..., Any] | Tool], seconds: float) -> dict[str, Tool]:
    """Tools by name, from names of built-in ones, `path/to/file.py:function` and functions."""
    tools: dict[str, Tool] = {}
    for one in given:
        tool = _tool_from(one, seconds)
        if tool.name in tools:
            raise UserError(f"two tools are called {tool.name}: a model could not tell them apart. Rename one")
        tools[tool.name] = tool
    return tools


def _tool_from(given: str | Callable[..., Any] | Tool, seconds: float) -> Tool:
    if isinstance(given, Tool):
        return given
    if not isinstance(given, str):
        return function_tool(given, seconds)
    if given in BUILT_IN:
        return BUILT_IN[given](seconds)
    if ".py:" not in given:
        raise UserError(
            f"no tool {given!r}: built in are {', '.join(BUILT_IN)}; your own is written path/to/file.py:function"
        )
    return function_tool(load_own(given, "a tool"), seconds)
