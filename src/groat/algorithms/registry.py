"""From what the user asked for to the algorithm that does it."""

from __future__ import annotations

from collections.abc import Mapping

from groat.algorithms.base import Algorithm
from groat.algorithms.grpo import GRPO
from groat.algorithms.online_dpo import OnlineDPO
from groat.algorithms.ppo import PPO
from groat.algorithms.reinforce import Reinforce
from groat.algorithms.rloo import RLOO
from groat.config.algorithms import (
    AlgorithmConfig,
    GRPOAlgorithmConfig,
    OnlineDPOAlgorithmConfig,
    PPOAlgorithmConfig,
    ReinforceAlgorithmConfig,
    RLOOAlgorithmConfig,
)


def build_algorithm(
    config: AlgorithmConfig, max_completion_length: int, reward_weights: Mapping[str, float] | None = None
) -> Algorithm:
    """`reward_weights`: of the reward functions, by their names; one that is not named weighs 1."""
    match config:
        case GRPOAlgorithmConfig():
            return GRPO(config, max_completion_length, reward_weights)
        case RLOOAlgorithmConfig():
            return RLOO(config)
        case ReinforceAlgorithmConfig():
            return Reinforce(config)
        case OnlineDPOAlgorithmConfig():
            return OnlineDPO(config)
        case PPOAlgorithmConfig():
            return PPO(config)
