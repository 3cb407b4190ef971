"""Tasks of reasoning-gym: problems made up by its datasets, answers scored by its scorers, both in worker processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.checked_rewards import Call, Checking, checked_reward, need
from groat.tasks.explained import Explained
from groat.tasks.extraction import last_tag, said_text
from groat.tasks.gym_screen import gym_refusal
from groat.tasks.isolation import Launcher, Limits, Target, Worker
from groat.tasks.reward_calls import Raised, Returned
from groat.tasks.reward_specs import built_from
from groat.types import Message, Problem, UserError

PREFIX = "reasoning_gym:"
NUM_TRAIN, NUM_HELD_OUT = 1000, 200
HELD_OUT_SEED = 1_000_000_007
SYSTEM_PROMPT = "Think step by step, then give the final answer, and nothing else, between <answer> and </answer>."
_AT_ONCE = 50
_MAKING = Limits(seconds=300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gym:
    """One dataset with its options, such as leg_counting(max_animals=5)."""

    dataset: str
    options: Mapping[str, Any]


def gym_from(name: str) -> Gym:
    """`reasoning_gym:leg_counting` or `reasoning_gym:leg_counting(max_animals=5)`."""
    need("the task reasoning_gym", "reasoning_gym", "reasoning-gym", "reasoning-gym")

    def made(dataset: str, arguments: list[Any], options: Mapping[str, Any]) -> Gym:
        if arguments or {"seed", "size"} & set(options):
            raise UserError(f"{name}: options are written name=value; seed and size are groat's")
        return Gym(dataset=dataset, options=options)

    gym = built_from(name.removeprefix(PREFIX), made, lambda file: file)
    if not isinstance(gym, Gym):
        raise UserError(f"{name} is no dataset of reasoning-gym: write {PREFIX}leg_counting, for example")
    _check_json(name, gym)
    return gym


def gym_problems(gym: Gym, seed: int, number: int, system_prompt: str | None = None) -> tuple[Problem, ...]:
    """The first problems of a seed."""
    opening: Message = {"role": "system", "content": SYSTEM_PROMPT if system_prompt is None else system_prompt}
    return tuple(
        Problem(
            id=f"{gym.dataset}-{seed}-{place:04d}",
            prompt=(opening, {"role": "user", "content": question}),
            columns={"answer": answer, "gym_place": [seed, place]},
        )
        for place, (question, answer) in enumerate(_made(gym, seed, number))
    )


def gym_reward(
    gym: Gym,
    *,
    timeout_seconds: float = 10.0,
    memory_mib: int = 2048,
    num_workers: int = 1,
    launcher: Launcher | None = None,
) -> BuiltReward:
    """The dataset's own score of what is between the last `<answer>` tags, or of the whole text, thinking aside.

    Answers that a scorer would evaluate as code are let through only if they are plain lists or algebra.
    """
    checking = Checking(
        rule="groat.tasks.gym_checker:judge",
        resident_mib=125,
        timeout_seconds=timeout_seconds,
        memory_mib=memory_mib,
        num_workers=num_workers,
        launcher=launcher,
    )

    def ask(text: str, place: Any) -> Call | Explained | None:
        if place is None:
            return None
        tagged = last_tag(text)
        answer = said_text(text) if tagged is None else tagged
        refused = gym_refusal(gym.dataset, answer)
        if refused is not None:
            return Explained(0.0, f"not scored: {refused}")
        return {"dataset": gym.dataset, "options": gym.options, "seed": place[0], "place": place[1], "answer": answer}

    return checked_reward("reasoning_gym", checking, ask, "gym_place")


def _made(gym: Gym, seed: int, number: int) -> list[tuple[str, str | None]]:
    """Made in a process that sees no model output."""
    worker = Worker(Target(name="groat.tasks.gym_checker:items"), _MAKING)
    pairs: list[tuple[str, str | None]] = []
    try:
        for first in range(0, number, _AT_ONCE):
            last = min(first + _AT_ONCE, number)
            call = {"dataset": gym.dataset, "options": gym.options, "seed": seed, "first": first, "last": last}
            outcome = worker.call(call)
            if not isinstance(outcome, Returned):
                why = str(outcome.error) if isinstance(outcome, Raised) else f"took longer than {_MAKING.seconds:g} s"
                raise UserError(f"reasoning-gym cannot make problems of {gym.dataset} with {dict(gym.options)}: {why}")
            pairs += [(question, answer) for question, answer in outcome.value]
    finally:
        worker.close()
    return pairs


def _check_json(name: str, gym: Gym) -> None:
    try:
        json.dumps(gym.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: options must be texts, numbers and lists: {error}") from error
