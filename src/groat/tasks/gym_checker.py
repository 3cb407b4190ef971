"""What worker processes run for reasoning-gym: they make its problems up, and score answers with its own scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import reasoning_gym
from reasoning_gym.composite import DatasetSpec


def items(dataset: str, options: Mapping[str, Any], seed: int, first: int, last: int) -> list[tuple[str, str | None]]:
    """Question and reference answer (None: the dataset has none) of the problems from `first` to before `last`."""
    made = _dataset(dataset, json.dumps(options), seed)
    return [_asked(made[place]) for place in range(first, last)]


def judge(dataset: str, options: Mapping[str, Any], seed: int, place: int, answer: str) -> tuple[float, str]:
    """The dataset's own score of an answer to the problem at `place`, from 0 to 1."""
    made = _dataset(dataset, json.dumps(options), seed)
    score = float(made.score_answer(answer=answer, entry=made[place]))
    return score, f"{dataset} gives {score:.3g}"


def _asked(item: Mapping[str, Any]) -> tuple[str, str | None]:
    answer = item["answer"]
    return str(item["question"]), None if answer is None else str(answer)


@lru_cache(maxsize=4)
def _dataset(name: str, options: str, seed: int) -> Any:
    given = json.loads(options)
    if name == "composite":
        given["datasets"] = [DatasetSpec(**part) for part in given["datasets"]]
    return reasoning_gym.create_dataset(name, seed=seed, **given)
