"""From what the user asked for to the algorithm that does it."""

from __future__ import annotations

from groat.algorithms.base import Algorithm
from groat.algorithms.grpo import GRPO
from groat.config.tree import AlgorithmConfig


def build_algorithm(config: AlgorithmConfig, max_completion_length: int) -> Algorithm:
    return GRPO(config, max_completion_length)
