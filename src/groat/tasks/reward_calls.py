"""Calling code we did not write: in a thread of its own, with a time limit, and whatever it raises caught."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

GRACE_SECONDS = 1.0
"""What coroutines get beyond their time limit to be cancelled in."""


@dataclass(frozen=True, slots=True)
class Returned:
    value: Any


@dataclass(frozen=True, slots=True)
class Raised:
    error: BaseException


@dataclass(frozen=True, slots=True)
class TimedOut:
    pass


Outcome = Returned | Raised | TimedOut


class CallThread:
    """One daemon thread that makes calls one after another, with one event loop for those that are async.

    The thread and the loop stay the same from call to call, for functions that keep a connection open.
    After a TimedOut the thread is lost to the call that hangs in it: close it and make a new one.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Outcome]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name="groat rewards", daemon=True).start()

    def call(self, function: Callable[[], Any], timeout_seconds: float) -> Outcome:
        answer: SimpleQueue[Outcome] = SimpleQueue()
        self._calls.put((function, answer))
        try:
            return answer.get(timeout=min(timeout_seconds, threading.TIMEOUT_MAX))
        except Empty:
            return TimedOut()

    def call_together(self, functions: Sequence[Callable[[], Awaitable[Any]]], timeout_seconds: float) -> list[Outcome]:
        """Runs coroutine functions side by side; each has the whole time limit.

        One that blocks the event loop for longer takes the others with it: all have then TimedOut.
        """
        whole = self.call(
            lambda: self._event_loop().run_until_complete(_together(functions, timeout_seconds)),
            timeout_seconds + GRACE_SECONDS,
        )
        return whole.value if isinstance(whole, Returned) else [whole] * len(functions)

    def close(self) -> None:
        """The thread ends after the calls it was given."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, answer = call
            answer.put(_outcome_of(function))
        if self._loop is not None:
            self._loop.close()

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop


def is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _outcome_of(function: Callable[[], Any]) -> Outcome:
    try:
        return Returned(function())
    except BaseException as error:  # SystemExit too: it must not end our thread
        return Raised(error)


async def _together(functions: Sequence[Callable[[], Awaitable[Any]]], timeout_seconds: float) -> list[Outcome]:
    tasks = [asyncio.ensure_future(_awaited_outcome_of(function)) for function in functions]
    _, late = await asyncio.wait(tasks, timeout=timeout_seconds)
    for task in late:
        task.cancel()
    if late:
        await asyncio.wait(late, timeout=GRACE_SECONDS / 2)
    return [TimedOut() if task in late else task.result() for task in tasks]


async def _awaited_outcome_of(function: Callable[[], Awaitable[Any]]) -> Outcome:
    try:
        return Returned(await function())
    except BaseException as error:  # cancelled tasks come here too, and are counted as late by then
        return Raised(error)
