"""Rewards made of rewards: weighted sums and gates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from groat.tasks.built_rewards import BuiltReward, given_to
from groat.tasks.explained import Explained, why_of
from groat.tasks.reward_calls import is_async
from groat.tasks.reward_values import reward_values
from groat.tasks.verifiers import Completions
from groat.types import UserError

Reward = Callable[..., Any]


def weighted_sum(*rewards: Reward, weights: Sequence[float] | None = None) -> BuiltReward:
    """The sum of the rewards times their weights (all 1 without them); None where none of them applies."""
    factors = [1.0] * len(rewards) if weights is None else [float(weight) for weight in weights]
    if not rewards or len(factors) != len(rewards):
        raise UserError(f"weighted_sum needs rewards and a weight for each, got {len(rewards)} and {len(factors)}")

    def combine(*values: float | None) -> Explained | None:
        if all(value is None for value in values):
            return None
        total = sum(factor * (value or 0.0) for factor, value in zip(factors, values, strict=True))
        return Explained(total, "; ".join(_shown(name, value) for name, value in zip(names, values, strict=True)))

    names = [_name(reward) for reward in rewards]
    return _combined("weighted_sum", rewards, combine)


def gate(reward: Reward, *, when: Reward, at_least: float = 1.0, otherwise: float = 0.0) -> BuiltReward:
    """`reward` where `when` gives `at_least` or more, `otherwise` elsewhere: such as points only for the right format.

    None where `reward` does not apply. Where `when` does not apply, the gate is closed.
    """

    def combine(value: float | None, condition: float | None) -> Explained | None:
        if value is None:
            return None
        if condition is not None and condition >= at_least:
            return Explained(value, why_of(value) or "")
        return Explained(otherwise, f"gate closed: {_shown(_name(when), condition)}")

    return _combined("gate", [reward, when], combine)


def _combined(name: str, rewards: Sequence[Reward], combine: Callable[..., Explained | None]) -> BuiltReward:
    """A reward that asks for everything that its parts take."""
    for reward in rewards:
        if not callable(reward) or is_async(reward):
            raise UserError(f"{name} is made of reward functions that are not async, got {reward!r}")

    def score(completions: Completions, **given: Any) -> list[float | None]:
        columns = [
            reward_values(reward(completions=completions, **given_to(reward, given)), len(completions))
            for reward in rewards
        ]
        return [combine(*values) for values in zip(*columns, strict=True)]

    built = [reward for reward in rewards if isinstance(reward, BuiltReward)]
    limited = [reward.most_seconds for reward in built if reward.most_seconds is not None]
    return BuiltReward(
        name,
        score,
        _parameters(rewards),
        most_seconds=(lambda number: sum(most(number) for most in limited)) if limited else None,
        close=lambda: _close_all(built),
        worker_bytes=sum(reward.worker_bytes for reward in built),
    )


def _parameters(rewards: Sequence[Reward]) -> list[inspect.Parameter]:
    """Everything that any of them takes by name; needed if one of them needs it."""
    taken: dict[str, inspect.Parameter] = {}
    for reward in rewards:
        for name, parameter in inspect.signature(reward).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                taken["given"] = inspect.Parameter("given", inspect.Parameter.VAR_KEYWORD)
            elif name != "completions" and (name not in taken or parameter.default is parameter.empty):
                taken[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=parameter.empty)
    return sorted(taken.values(), key=lambda parameter: parameter.kind)


def _close_all(rewards: Sequence[BuiltReward]) -> None:
    for reward in rewards:
        reward.close()


def _name(reward: Reward) -> str:
    return getattr(reward, "__name__", type(reward).__name__)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return f"{name} does not apply"
    why = why_of(value)
    return f"{name} {value:.3g} ({why})" if why else f"{name} {value:.3g}"
