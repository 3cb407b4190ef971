"""Groups for the tests of rewards: the texts are given, tokens are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groat.tasks.rewards import Grader, RewardFunction
from groat.types import Completion, FinishReason, Group, Problem, Prompt


def a_completion(text: str, token_ids: tuple[int, ...] = (1, 2)) -> Completion:
    return Completion(
        token_ids=token_ids,
        sampler_logprobs=(-1.0,) * len(token_ids),
        policy_logprobs=(-1.0,) * len(token_ids),
        text=text,
        finish_reason=FinishReason.STOP,
        policy_version=0,
    )


def a_group(*texts: str, name: str = "p", prompt: Any = "2 + 2?", **columns: Any) -> Group:
    problem = Problem(id=name, prompt=prompt, columns=columns)
    completions = tuple(a_completion(text, (position,)) for position, text in enumerate(texts))
    return Group(prompt=Prompt(problem=problem, token_ids=(7, 8)), completions=completions)


def a_grader(*functions: Callable[..., Any], timeout_seconds: float = 5.0) -> Grader:
    return Grader(
        [RewardFunction(name=function.__name__, function=function) for function in functions], timeout_seconds
    )


def returning(value: Any):
    def reward(completions: Any) -> Any:
        return value

    return reward
