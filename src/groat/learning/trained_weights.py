"""Weights that are trained together: their gradients, their optimizer, and what a checkpoint holds of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from groat.config.tree import TrainingConfig
from groat.learning.optimizer import build_optimizer


class TrainedWeights:
    """Named leaves and the optimizer over them. `name` tells their part of a checkpoint from others."""

    def __init__(self, named: Mapping[str, torch.Tensor], config: TrainingConfig, name: str) -> None:
        self._named = dict(named)
        self._config = config
        self._prefix = f"{name}."
        self._optimizer_prefix = "optimizer." if name == "adapter" else f"optimizer.{name}."
        self._optimizer = build_optimizer(self._named.values(), config)

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(parameter.numel() for parameter in self._named.values())

    @property
    def missing_gradient_bytes(self) -> int:
        """That a backward will take."""
        return sum(parameter.nbytes for parameter in self._named.values() if parameter.grad is None)

    def make_room(self) -> None:
        """Take the memory of the optimizer's moments now rather than at the first step."""
        self._optimizer.make_room()

    def clip_gradients(self) -> float:
        """Scale them down to training.max_grad_norm; returns how long they were. 0 where there are none."""
        if all(parameter.grad is None for parameter in self._named.values()):
            return 0.0
        limit = self._config.max_grad_norm or math.inf
        return torch.nn.utils.clip_grad_norm_(list(self._named.values()), limit).item()

    def step(self, rate: float) -> None:
        """Move the weights that have gradients."""
        self._optimizer.step(rate)

    def forget_gradients(self) -> None:
        """Give back their memory."""
        self._optimizer.forget_gradients()

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, then the moments. Not copies."""
        tensors = {f"{self._prefix}{name}": tensor.detach() for name, tensor in self._named.items()}
        for name, parameter in self._named.items():
            for moment, value in self._optimizer.state(parameter).items():
                tensors[f"{self._optimizer_prefix}{name}.{moment}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to what `state` gave; copies it. ValueError for the state of another optimizer."""
        for name, parameter in self._named.items():
            parameter.data.copy_(tensors[f"{self._prefix}{name}"])
            self._optimizer.restore(parameter, _under(f"{self._optimizer_prefix}{name}.", tensors))


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
