"""A user's Python function as a tool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from groat.tasks.reward_calls import CallThread, Outcome, Raised, Returned, is_async
from groat.tasks.tools.json_types import described
from groat.tasks.tools.tool import Tool, ToolError


def function_tool(function: Callable[..., Any], seconds: float = 10.0) -> Tool:
    """Described to the model by the function's name, docstring and type hints (see `json_types`); it may be async.

    Calls come one after another, in a thread of their own. One that takes longer than `seconds` is given up: a thread
    cannot be stopped, so it may go on until the process ends.
    """
    description, parameters = described(function)
    calls = OwnCalls(seconds)
    return Tool(
        name=getattr(function, "__name__", type(function).__name__),
        description=description,
        parameters=parameters,
        run=partial(calls.run, function),
        close=calls.close,
    )


class OwnCalls:
    """The thread in which functions of the user's own are called, one call after another."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._thread: CallThread | None = None

    def run(self, function: Callable[..., Any], /, **arguments: Any) -> Any:
        """What it returns; ToolError for what it raises, and for one that takes too long."""
        with self._lock:
            outcome = self._outcome(function, arguments)
        if isinstance(outcome, Returned):
            return outcome.value
        if isinstance(outcome, Raised):
            raise ToolError(f"{type(outcome.error).__name__}: {outcome.error}")
        raise ToolError(f"no result within {self._seconds:g} s")

    def close(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _outcome(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Outcome:
        self._thread = self._thread or CallThread()
        call = partial(function, **arguments)
        if is_async(function):
            [outcome] = self._thread.call_together([call], self._seconds)
        else:
            outcome = self._thread.call(call, self._seconds)
        if not isinstance(outcome, Returned | Raised):
            self.close()  # the thread is lost to the call that hangs in it, and ends with it
        return outcome
