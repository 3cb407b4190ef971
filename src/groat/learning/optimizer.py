"""AdamW over the adapter, and how its learning rate moves."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch

from groat.config.tree import TrainingConfig
from groat.kernels.adamw import AdamWNumbers, Moment8, adamw_8bit_


class _Moved(NamedTuple):
    """A parameter in a step."""

    parameter: torch.Tensor
    grad: torch.Tensor
    state: dict[str, torch.Tensor]


class Optimizer(ABC):
    """AdamW (arXiv:1711.05101) over some parameters; how the moments are stored is up to a subclass.

    Not `torch.optim.AdamW`, which imports 60 MiB of compiler with it.
    """

    _names: ClassVar[frozenset[str]]
    """Of a parameter's state."""

    def __init__(self, parameters: Iterable[torch.Tensor], config: TrainingConfig) -> None:
        self._parameters = list(parameters)
        self._config = config
        self._state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    def state(self, parameter: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """`step` and the moments; empty until they take memory. Not copies."""
        return self._state.get(parameter, {})

    def restore(self, parameter: torch.Tensor, state: Mapping[str, torch.Tensor]) -> None:
        """Go back to what `state` gave; copies it. ValueError if another kind of optimizer gave it."""
        if state and self._names.symmetric_difference(state):
            raise ValueError("the moments are those of another optimizer")
        self._state[parameter] = {name: tensor.clone() for name, tensor in state.items()}

    def make_room(self) -> None:
        """Take the memory of all moments now rather than at the first step."""
        for parameter in self._parameters:
            for moment in self._state_of(parameter).values():
                moment.mul_(1)  # zeros take no memory until they are written

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the parameters that have gradients."""
        moved = [
            _Moved(parameter, parameter.grad, self._state_of(parameter))
            for parameter in self._parameters
            if parameter.grad is not None
        ]
        for one in moved:
            one.state["step"] += 1
        if moved:
            self._move(moved, rate)

    def forget_gradients(self) -> None:
        """Give back their memory."""
        for parameter in self._parameters:
            parameter.grad = None

    @abstractmethod
    def _new_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]: ...

    @abstractmethod
    def _move(self, moved: Sequence[_Moved], rate: float) -> None: ...

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self._state.get(parameter):
            self._state[parameter] = self._new_state(parameter)
        return self._state[parameter]


class AdamW(Optimizer):
    """Moments in fp32, by torch's fused kernel, the fastest on a CPU."""

    _names = frozenset({"step", "exp_avg", "exp_avg_sq"})

    def _new_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=parameter.device), **moments}

    def _move(self, moved: Sequence[_Moved], rate: float) -> None:
        torch.ops.aten._fused_adamw_(
            [one.parameter for one in moved],
            [one.grad for one in moved],
            [one.state["exp_avg"] for one in moved],
            [one.state["exp_avg_sq"] for one in moved],
            [],
            [one.state["step"] for one in moved],
            lr=rate,
            beta1=self._config.adam_beta1,
            beta2=self._config.adam_beta2,
            weight_decay=self._config.weight_decay,
            eps=self._config.adam_epsilon,
            amsgrad=False,
            maximize=False,
        )


_MOMENTS = {"exp_avg": True, "exp_avg_sq": False}
"""And whether they have a sign."""


class AdamW8bit(Optimizer):
    """Moments in 8 bits (arXiv:2110.02861): a quarter of the memory, and a little noise in every step."""

    _names = frozenset({"step", "exp_avg.codes", "exp_avg.scales", "exp_avg_sq.codes", "exp_avg_sq.scales"})

    def _new_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state = {"step": torch.zeros(())}
        for name, signed in _MOMENTS.items():
            moment = Moment8.zeros_like(parameter, signed=signed)
            state |= {f"{name}.codes": moment.codes, f"{name}.scales": moment.scales}
        return state

    def _move(self, moved: Sequence[_Moved], rate: float) -> None:
        config = self._config
        for parameter, grad, state in moved:
            step = state["step"].item()
            numbers = AdamWNumbers(
                rate=rate,
                beta1=config.adam_beta1,
                beta2=config.adam_beta2,
                epsilon=config.adam_epsilon,
                weight_decay=config.weight_decay,
                correction1=1 - config.adam_beta1**step,
                correction2=1 - config.adam_beta2**step,
            )
            mean, square = (
                Moment8(state[f"{name}.codes"], state[f"{name}.scales"], signed) for name, signed in _MOMENTS.items()
            )
            adamw_8bit_(parameter, grad, mean, square, numbers)


def build_optimizer(parameters: Iterable[torch.Tensor], config: TrainingConfig) -> Optimizer:
    """As `training.optim` says."""
    return (AdamW8bit if config.optim == "adamw_8bit" else AdamW)(parameters, config)


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
