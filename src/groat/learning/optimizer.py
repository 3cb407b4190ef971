"""AdamW over the adapter, and how its learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch

from groat.config.tree import TrainingConfig


class AdamW:
    """AdamW (arXiv:1711.05101) by torch's fused kernel, the fastest on a CPU.

    Not `torch.optim.AdamW`, which does the same and imports 60 MiB of compiler with it.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], config: TrainingConfig) -> None:
        self._parameters = list(parameters)
        self._config = config
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        """Of each parameter that was stepped: `step`, and the moments `exp_avg` and `exp_avg_sq`."""

    def make_room(self) -> None:
        """Take the memory of all moments now rather than at the first step."""
        for parameter in self._parameters:
            for moment in self._state_of(parameter).values():
                moment.mul_(1)  # zeros take no memory until they are written

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters that have gradients."""
        moved = [parameter for parameter in self._parameters if parameter.grad is not None]
        states = [self._state_of(parameter) for parameter in moved]
        for state in states:
            state["step"] += 1
        if moved:
            torch._fused_adamw_(  # pyright: ignore[reportPrivateUsage]
                moved,
                [cast(torch.Tensor, parameter.grad) for parameter in moved],
                *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
                [],
                [state["step"] for state in states],
                lr=rate,
                beta1=self._config.adam_beta1,
                beta2=self._config.adam_beta2,
                weight_decay=self._config.weight_decay,
                eps=self._config.adam_epsilon,
                amsgrad=False,
                maximize=False,
            )

    def forget_gradients(self) -> None:
        """Give back their memory."""
        for parameter in self._parameters:
            parameter.grad = None

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.state.get(parameter):
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        return self.state[parameter]


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
