"""AdamW over the adapter, and how its learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from groat.config.tree import TrainingConfig


def build_optimizer(parameters: Iterable[torch.Tensor], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with torch's fused kernel, the fastest on a CPU."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainingConfig, update: int, num_updates: int) -> float:
    """The rate of update number `update` (from 0) of `num_updates`: a linear rise, then the schedule towards 0.

    Further updates have the schedule's last rate: never a negative one.
    """
    warmup = math.ceil(config.warmup_ratio * num_updates)
    if update < warmup:
        return config.learning_rate * (update + 1) / warmup
    done = min(1.0, (update - warmup) / max(1, num_updates - warmup))
    match config.lr_scheduler_type:
        case "constant":
            return config.learning_rate
        case "linear":
            return config.learning_rate * (1 - done)
        case "cosine":
            return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
