"""Rewards: each function is called once per step with every completion, in TRL's way, and its values are checked."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.explained import Explained
from groat.tasks.isolation import WorkerError
from groat.tasks.reward_arguments import Answers, Logged, reward_arguments
from groat.tasks.reward_calls import CallThread, Outcome, Raised, Returned, is_async
from groat.tasks.reward_values import BadValueError, reward_values
from groat.types import Group, Reward, UserError


class RewardError(UserError):
    """A reward function did not give one finite number (or None) per completion. It ends the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFunction:
    """`function` has TRL's signature: keywords in, a list of `float | None` out; it may be async."""

    name: str
    function: Callable[..., Any]
    weight: float = 1.0


class Grader:
    """Calls the reward functions and adds up their values.

    Sync functions run one after another, async ones side by side, all in a thread that is kept between calls.
    No mistake becomes a silent 0: it is a RewardError, and so is a completion for which every function returns None.
    What cannot be held is a function that ends the process itself (`os._exit`, a crash in C code).
    """

    def __init__(self, functions: Sequence[RewardFunction], timeout_seconds: float = 60.0) -> None:
        self.functions = tuple(functions)
        self.timeout_seconds = timeout_seconds
        self.num_errors: Counter[str] = Counter()
        """How often each function failed, since the beginning."""
        self._logged = Logged(0)
        self._thread: CallThread | None = None
        names = Counter(function.name for function in self.functions)
        if not names or max(names.values()) > 1:
            raise UserError(f"rewards need at least one function, and names that differ; got {list(names.elements())}")

    @property
    def metrics(self) -> Mapping[str, float]:
        """What `log_metric` was given during the last call, averaged."""
        return {name: sum(values) / len(values) for name, values in self._logged.metrics.items()}

    @property
    def extras(self) -> Mapping[str, Sequence[Any]]:
        """What `log_extra` was given during the last call: columns with one value per completion."""
        return self._logged.extras

    def grade(self, groups: Sequence[Group], trainer_state: Any = None) -> list[Group]:
        answers = _answers_of(groups)
        rewards = iter(self._rewards(answers, self.values(answers, trainer_state)))
        return [group.with_rewards(tuple(next(rewards) for _ in group.completions)) for group in groups]

    def values(self, answers: Answers, trainer_state: Any = None) -> dict[str, list[float | None]]:
        """What each function gave to each completion; an `Explained` says why."""
        self._logged = Logged(len(answers.texts))
        if not answers.texts:
            return {function.name: [] for function in self.functions}
        calls = [
            partial(reward.function, **reward_arguments(reward.function, answers, trainer_state, self._logged))
            for reward in self.functions
        ]
        at_once = [place for place, reward in enumerate(self.functions) if not is_async(reward.function)]
        together = [place for place, reward in enumerate(self.functions) if is_async(reward.function)]
        values: dict[int, list[float | None]] = {}
        for place in at_once:
            seconds = self._seconds_for(self.functions[place], len(answers.texts))
            outcome = self._running_thread().call(calls[place], seconds)
            values[place] = self._checked(self.functions[place].name, outcome, answers)
        if together:
            outcomes = self._running_thread().call_together([calls[place] for place in together], self.timeout_seconds)
            for place, outcome in zip(together, outcomes, strict=True):
                values[place] = self._checked(self.functions[place].name, outcome, answers)
        return {reward.name: values[place] for place, reward in enumerate(self.functions)}

    def close(self) -> None:
        """Lets the thread and the worker processes end; a later call starts new ones."""
        self._leave_thread()
        for reward in self.functions:
            if built := _built(reward):
                built.close()

    def _leave_thread(self) -> None:
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _seconds_for(self, reward: RewardFunction, num_completions: int) -> float:
        """Rewards that limit each completion by themselves are given the time that this takes at most."""
        built = _built(reward)
        own = 0.0 if built is None or built.most_seconds is None else built.most_seconds(num_completions)
        return max(self.timeout_seconds, own)

    def _running_thread(self) -> CallThread:
        self._thread = self._thread or CallThread()
        return self._thread

    def _checked(self, name: str, outcome: Outcome, answers: Answers) -> list[float | None]:
        if isinstance(outcome, Returned):
            try:
                return reward_values(outcome.value, len(answers.texts))
            except BadValueError as error:
                self._fail(name, str(error), answers, error.place, error)
        if isinstance(outcome, Raised) and isinstance(outcome.error, BadValueError):
            self._fail(name, str(outcome.error), answers, outcome.error.place, outcome.error)
        if isinstance(outcome, Raised) and isinstance(outcome.error, WorkerError | UserError):
            self._fail(name, str(outcome.error), answers, cause=outcome.error)
        if isinstance(outcome, Raised):
            self._fail(name, _raised(outcome.error), answers, cause=outcome.error)
        self._leave_thread()  # the thread is lost to the call that hangs in it, and ends with it
        self._fail(
            name,
            f"did not return within {self.timeout_seconds:g} s; a thread cannot be stopped, so it may go on until the "
            "process ends. Raise task.reward_timeout_seconds, or put a time limit into the function",
            answers,
        )

    def _fail(
        self, name: str, what: str, answers: Answers, place: int | None = None, cause: BaseException | None = None
    ) -> NoReturn:
        """`place` is the completion it is about; None: all of them."""
        self.num_errors[name] += 1
        total, problem = len(answers.texts), answers.problems[place or 0].id
        about = f"called with {total} completions" if place is None else f"completion {place + 1} of {total}"
        raise RewardError(f"reward function {name} {what} ({about}, problem {problem})") from cause

    def _rewards(self, answers: Answers, values: Mapping[str, Sequence[float | None]]) -> list[Reward]:
        rewards: list[Reward] = []
        for place in range(len(answers.texts)):
            parts = {name: of_function[place] for name, of_function in values.items()}
            if all(part is None for part in parts.values()):
                self._fail(
                    " and ".join(parts),
                    "returned None; at least one function must apply to each completion",
                    answers,
                    place,
                )
            rewards.append(_reward(self._total(parts), parts))
        return rewards

    def _total(self, parts: Mapping[str, float | None]) -> float:
        weighted = [reward.weight * (parts[reward.name] or 0.0) for reward in self.functions]
        return float(sum(weighted))


def _reward(total: float, parts: Mapping[str, float | None]) -> Reward:
    return Reward(
        total=total,
        parts={name: None if part is None else float(part) for name, part in parts.items()},
        reasons={name: part.why for name, part in parts.items() if isinstance(part, Explained)},
    )


def worker_bytes(rewards: Iterable[RewardFunction]) -> int:
    """What their worker processes hold while a run goes on."""
    return sum(built.worker_bytes for reward in rewards if (built := _built(reward)))


def _built(reward: RewardFunction) -> BuiltReward | None:
    function = inspect.unwrap(reward.function)
    return function if isinstance(function, BuiltReward) else None


def _answers_of(groups: Sequence[Group]) -> Answers:
    pairs = [(group.prompt.problem, completion) for group in groups for completion in group.completions]
    return Answers(
        problems=[problem for problem, _ in pairs],
        texts=[completion.text for _, completion in pairs],
        token_ids=[completion.token_ids for _, completion in pairs],
        turns=[completion.turns for _, completion in pairs],
        environments=[completion.environment for _, completion in pairs],
    )


def _raised(error: BaseException) -> str:
    """Such as: raised ZeroDivisionError: division by zero (rewards.py, line 12)."""
    last_line = traceback.format_exception_only(error)[-1].strip()[:300]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    hint = ""
    if "signal only works in main thread" in last_line:
        hint = ". Rewards run outside the main thread: give math-verify parsing_timeout=None and timeout_seconds=None"
    return f"raised {last_line}{place}{hint}"
