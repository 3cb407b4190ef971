"""A penalty for answers that come close to the length limit (DAPO, arXiv:2503.14476, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groat.tasks.rewards import RewardFunction

NAME = "soft_overlong"


def soft_overlong(max_length: int, buffer: int) -> RewardFunction:
    """0 up to `buffer` tokens before `max_length`, from there in a straight line down to -1 at it (equation 13)."""

    def penalties(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        return [-max(0.0, (len(ids) - (max_length - buffer)) / buffer) for ids in completion_ids]

    return RewardFunction(name=NAME, function=penalties)
