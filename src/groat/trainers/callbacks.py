"""Callbacks in transformers' way: objects whose methods are told how training goes, and may stop it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groat.types import UserError

EVENTS = ("on_init_end", "on_train_begin", "on_step_end", "on_log", "on_train_end")

logger = logging.getLogger("groat")


@dataclass
class TrainerState:
    """Where training stands. Steps are updates of the weights, as in transformers."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    log_history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """One dict per step, with TRL's metric names, `step` and `epoch`; evaluations come after the steps."""
    is_world_process_zero: bool = True
    is_local_process_zero: bool = True


@dataclass
class TrainerControl:
    """What a callback may ask for. Only should_training_stop is heeded."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False


class Callbacks:
    """Calls every callback's method for an event, if it has one."""

    def __init__(self, callbacks: Sequence[Any], args: Any, state: TrainerState) -> None:
        self._callbacks = [callback() if isinstance(callback, type) else callback for callback in callbacks]
        self._args = args
        self._state = state
        self._told = False
        self.control = TrainerControl()
        for callback in self._callbacks:
            _check(callback)

    def call(self, event: str, **more: Any) -> None:
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                changed = method(self._args, self._state, self.control, **more)
                self.control = changed if changed is not None else self.control
        self._tell_what_is_not_heeded()

    def end_step(self, logs: Mapping[str, float]) -> None:
        """The two events of a finished step."""
        self.call("on_step_end")
        self.call("on_log", logs=dict(logs))

    def _tell_what_is_not_heeded(self) -> None:
        asked = [
            name for name in ("should_save", "should_evaluate", "should_epoch_stop") if getattr(self.control, name)
        ]
        if asked and not self._told:
            self._told = True
            logger.warning(
                "a callback set control.%s, which groat does not heed; save_steps and eval_steps do", asked[0]
            )


def _check(callback: Any) -> None:
    name = type(callback).__name__
    methods = [method for method in dir(callback) if method.startswith("on_") and _is_own(callback, method)]
    if not methods:
        raise UserError(f"the callback {name} has none of {', '.join(EVENTS)}")
    never = [method for method in methods if method not in EVENTS]
    if never:
        logger.warning("callback %s: groat never calls %s; it calls %s", name, ", ".join(never), ", ".join(EVENTS))


def _is_own(callback: Any, method: str) -> bool:
    """Whether the class does something for this event, rather than inherit transformers' empty method."""
    bases = [base for base in type(callback).__mro__ if base.__name__ == "TrainerCallback"]
    return not any(getattr(base, method, None) is getattr(type(callback), method, None) for base in bases)
