"""The rewards of an environment of the package `verifiers`: each function of its rubric is a reward function.

Unlike there, a function that raises ends the run with a sentence: it does not count as 0.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import groupby
from typing import Any

from groat.tasks.reward_arguments import takes
from groat.tasks.reward_loading import told_apart
from groat.tasks.rewards import RewardFunction
from groat.tasks.verifiers_rollouts import Coroutines, VerifiersRollout
from groat.types import UserError

_OF_A_GROUP = {"states", "prompts", "completions", "answers", "tasks", "infos"}


def rubric_rewards(environment: Any, loop: Coroutines) -> tuple[RewardFunction, ...]:
    """In the rubric's order, with its weights; those of weight 0 are recorded as all others are."""
    found = [
        (rubric, function, weight)
        for rubric in _rubrics(environment.rubric)
        for function, weight in zip(rubric.funcs, rubric.weights, strict=True)
    ]
    if not any(weight for _, _, weight in found):
        raise UserError(
            f"the rubric of {type(environment).__name__} has no function with a weight: there is nothing to train for. "
            "Name rewards in task.reward_funcs"
        )
    names = told_apart([getattr(function, "__name__", type(function).__name__) for _, function, _ in found])
    return tuple(
        RewardFunction(name=name, function=_reward(rubric, function, loop), weight=float(weight))
        for name, (rubric, function, weight) in zip(names, found, strict=True)
    )


def _rubrics(rubric: Any) -> list[Any]:
    """Itself, or those of which it is made."""
    for name in ("score_rollout", "score_group"):
        method = getattr(type(rubric), name, None)
        if method is not None and not method.__module__.startswith("verifiers."):
            raise UserError(
                f"the rubric {type(rubric).__name__} scores in a way of its own ({name}): groat calls a rubric's "
                "functions"
            )
    inner = getattr(rubric, "rubrics", None)
    return [rubric] if inner is None else [one for part in inner for one in _rubrics(part)]


def _reward(rubric: Any, function: Callable[..., Any], loop: Coroutines) -> Callable[..., list[float]]:
    scores = _scores_of_groups if _OF_A_GROUP & set(inspect.signature(function).parameters) else _scores_one_by_one

    def reward(environments: Sequence[VerifiersRollout], completions: Sequence[Sequence[Mapping[str, Any]]]) -> Any:
        for rollout, turns in zip(environments, completions, strict=True):
            rollout.finish([turn["content"] for turn in turns if turn["role"] == "assistant"])
        return loop.result(scores(rubric, function, environments), is_limited=False)

    return reward


def _scores_one_by_one(
    rubric: Any, function: Callable[..., Any], rollouts: Sequence[VerifiersRollout]
) -> Coroutine[Any, Any, list[float]]:
    async def scores() -> list[float]:
        calls = (_called(function, _arguments(rubric, rollout.state)) for rollout in rollouts)
        return [float(value) for value in await asyncio.gather(*calls)]

    return scores()


def _scores_of_groups(
    rubric: Any, function: Callable[..., Any], rollouts: Sequence[VerifiersRollout]
) -> Coroutine[Any, Any, list[float]]:
    """The completions of a problem together."""

    async def scores() -> list[float]:
        found: list[float] = []
        for _, group in groupby(rollouts, lambda rollout: rollout.problem.id):
            states = [rollout.state for rollout in group]
            one_by_one = [_arguments(rubric, state) for state in states]
            arguments = {
                f"{name}s": [each[name] for each in one_by_one]
                for name in ("prompt", "completion", "answer", "task", "info", "state")
            }
            found += [float(value) for value in await _called(function, {**rubric.class_objects, **arguments})]
        return found

    return scores()


async def _called(function: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    """With those of the arguments that it takes."""
    value = function(**{name: given for name, given in offered.items() if takes(function, name)})
    return await value if inspect.isawaitable(value) else value


def _arguments(rubric: Any, state: Any) -> dict[str, Any]:
    """By name, as the rubric itself gives them."""
    if hasattr(rubric, "score_objects"):
        return rubric.score_objects(state)
    return {
        "prompt": state["prompt"],
        "completion": state["completion"],
        "answer": state.get("answer", ""),
        "state": state,
        "task": state.get("task"),
        "info": state.get("info", {}),
        **rubric.class_objects,
    }
