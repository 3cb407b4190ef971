"""What an algorithm is: a way to give credit, and a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from groat.batching import Targets, Totals
from groat.types import Group, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Extra forward passes an algorithm asks for before its first update."""

    reference_logprobs: bool = False
    old_logprobs: bool = False
    entropies: bool = False
    """Of the policy before the update."""
    entropy_gradient: bool = False
    """The loss has a gradient through `Forward.entropy_N` too."""
    greedy: bool = False
    """Whether each token is the likeliest."""
    values: bool = False
    """By a value model, which is trained too: the algorithm is an `ActorCritic`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """What a step trains on."""

    samples: tuple[Sample, ...]
    """The completions that can move the policy; those that cannot are left out, and count in `totals` all the same."""
    totals: Totals
    metrics: Mapping[str, float]
    """About rewards and lengths of the whole step."""
    mini_batches: tuple[Credit, ...] = ()
    """What each update learns from, in their order, with totals of its own; empty: every one learns from everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What the learner computed for the N tokens of one micro-batch, at the sampling temperature."""

    logprobs_N: Tensor
    """With gradients, in nats."""
    entropy_N: Tensor | None = None
    """In nats; with gradients where `Needs.entropy_gradient` asks for them."""
    is_greedy_N: Tensor | None = None
    """Whether no token was likelier; where `Needs.greedy` asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure about many numbers, kept so that micro-batches can be joined without loss."""

    kind: Literal["mean", "min", "max"]
    value: Tensor
    """The numbers' sum (for a mean), smallest or largest; a scalar without gradient."""
    count: int
    """How many numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The loss of one micro-batch."""

    total: Tensor
    """A scalar, divided by the step's totals already: the losses of a step's micro-batches add up."""
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])


class Algorithm(Protocol):
    @property
    def needs(self) -> Needs: ...

    @property
    def num_iterations(self) -> int:
        """Updates per batch of completions."""
        ...

    def assign_credit(self, groups: Sequence[Group]) -> Credit: ...

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss: ...


@runtime_checkable
class ActorCritic(Algorithm, Protocol):
    """An algorithm with a value model, whose loss has no tensor in common with the policy's."""

    def value_loss(self, values_N: Tensor, targets: Targets, totals: Totals) -> Loss:
        """Of the same tokens as `loss`; `values_N` have gradients."""
        ...


def mean_metric(values_N: Tensor) -> Metric:
    return Metric(kind="mean", value=values_N.detach().sum(dtype=torch.float64), count=values_N.numel())


def min_metric(values_N: Tensor) -> Metric:
    return Metric(kind="min", value=values_N.detach().min(), count=values_N.numel())


def max_metric(values_N: Tensor) -> Metric:
    return Metric(kind="max", value=values_N.detach().max(), count=values_N.numel())


def clip_metrics(ratio_N: Tensor, advantages_N: Tensor, *, low: float, high: float) -> dict[str, Metric]:
    """The share of ratios past the border that their advantage pushes them over."""
    high_N = ((ratio_N > high) & (advantages_N > 0)).to(ratio_N.dtype)
    low_N = ((ratio_N < low) & (advantages_N < 0)).to(ratio_N.dtype)
    return {
        "clip_ratio/low_mean": mean_metric(low_N),
        "clip_ratio/high_mean": mean_metric(high_N),
        "clip_ratio/region_mean": mean_metric(low_N + high_N),
    }


def join_metrics(losses: Sequence[Loss]) -> dict[str, float]:
    """The figures of several micro-batches together, as if they had been one."""
    names = dict.fromkeys(name for loss in losses for name in loss.metrics)
    return {name: _joined([loss.metrics[name] for loss in losses if name in loss.metrics]) for name in names}


def _joined(parts: Sequence[Metric]) -> float:
    values = torch.stack([part.value for part in parts])
    match parts[0].kind:
        case "mean":
            return float(values.sum()) / sum(part.count for part in parts)
        case "min":
            return float(values.min())
        case "max":
            return float(values.max())
