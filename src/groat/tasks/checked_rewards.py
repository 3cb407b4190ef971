"""Rewards whose rule runs in worker processes: what a hostile text can do is cost one call its time limit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groat.tasks.built_rewards import BuiltReward, Scores, texts_of
from groat.tasks.explained import Explained
from groat.tasks.isolation import Launcher, Limits, Target, WorkerPool
from groat.tasks.reward_calls import Outcome, Raised, Returned
from groat.tasks.verifiers import Completions
from groat.types import UserError

Call = Mapping[str, Any]
"""The arguments of the rule in the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checking:
    """How rules are run in workers. `rule` is `package.module:function`; it returns a value and why."""

    rule: str
    resident_mib: int
    """What a worker holds with all that the rule imports, measured on Linux with Python 3.11."""
    timeout_seconds: float
    memory_mib: int
    num_workers: int
    launcher: Launcher | None = None

    def __post_init__(self) -> None:
        if not (0 < self.timeout_seconds <= 3600 and self.memory_mib >= 64 and 1 <= self.num_workers <= 64):
            raise UserError(
                "workers need timeout_seconds above 0, memory_mib of 64 or more and 1 to 64 num_workers, got "
                f"{self.timeout_seconds}, {self.memory_mib} and {self.num_workers}"
            )


def checked_reward(
    name: str,
    checking: Checking,
    ask: Callable[[str, Any], Call | Explained | None],
    column: str | None = None,
) -> BuiltReward:
    """`ask` turns a text and its row's `column` into a call, or decides without one (None: not applicable).

    The rule returns a value (None: not applicable) and why. A call that is late, runs out of memory or breaks its
    process earns 0 and says so; the share of these among a batch's calls is logged as `{name}/undecided`.
    """
    limits = Limits(seconds=checking.timeout_seconds, memory_bytes=checking.memory_mib * 2**20)
    pool = WorkerPool(Target(name=checking.rule), limits, checking.num_workers, checking.launcher)

    def score(
        completions: Completions, log_metric: Callable[[str, float], None] | None = None, **columns: Sequence[Any]
    ) -> Scores:
        texts = texts_of(completions)
        answers = [None] * len(texts) if column is None else columns[column]
        asked = [ask(*pair) for pair in zip(texts, answers, strict=True)]
        calls = [call for call in asked if isinstance(call, Mapping)]
        outcomes = pool.call_all(calls)
        if calls and log_metric is not None:
            log_metric(f"{name}/undecided", sum(map(_is_undecided, outcomes)) / len(calls))
        decided = iter([_verdict(outcome, limits.seconds) for outcome in outcomes])
        return [next(decided) if isinstance(call, Mapping) else call for call in asked]

    held = checking.num_workers * checking.resident_mib * 2**20
    columns = ("log_metric",) if column is None else ("log_metric", column)
    return BuiltReward(name, score, columns, most_seconds=pool.most_seconds, close=pool.close, worker_bytes=held)


def need(name: str, module: str, package: str, extra: str) -> None:
    """UserError if an optional package is not installed."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{name} needs {package}, which is not installed: pip install "groat[{extra}]"')


def _is_undecided(outcome: Outcome) -> bool:
    return not isinstance(outcome, Returned)


def _verdict(outcome: Outcome, seconds: float) -> Explained | None:
    if isinstance(outcome, Returned):
        value, why = outcome.value
        return None if value is None else Explained(value, why)
    if isinstance(outcome, Raised):
        return Explained(0.0, f"could not be checked: {outcome.error}")
    return Explained(0.0, f"not decided within {seconds:g} s")
