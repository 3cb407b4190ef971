"""A penalty for answers that come close to the length limit (DAPO, arXiv:2503.14476, section 3.4)."""

from __future__ import annotations

from groat.tasks import shaping
from groat.tasks.rewards import RewardFunction


def soft_overlong(max_length: int, buffer: int) -> RewardFunction:
    """The reward of this name as a run adds it by itself, over the last `buffer` tokens."""
    return RewardFunction(name="soft_overlong", function=shaping.soft_overlong(max_length=max_length, cache=buffer))
