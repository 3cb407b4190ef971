"""Losses per token and the terms they are made of: pure functions of small tensors (N tokens, S samples)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from groat.batching import Targets

_LEAST_LOG_W = math.log(1e-8)
_LARGEST_LOG_W = 20.0


class Gamma(NamedTuple):
    """The shape of VESPO's weights."""

    k: float
    lambda_: float


def sequence_sums(values_N: Tensor, sequence_N: Tensor, lengths_S: Tensor) -> Tensor:
    """The sum of each sequence's tokens [S]."""
    return values_N.new_zeros(lengths_S.shape).index_add(0, sequence_N, values_N)


def sequence_means(values_N: Tensor, sequence_N: Tensor, lengths_S: Tensor) -> Tensor:
    """Each token gets the mean of its sequence."""
    return (sequence_sums(values_N, sequence_N, lengths_S) / lengths_S)[sequence_N]


def clipped_policy_losses(
    ratio_N: Tensor, advantages_N: Tensor, *, low: float, high: float, bound: float | None = None
) -> Tensor:
    """PPO's pessimistic surrogate: no reward for leaving [low, high].

    `bound` also limits what a ratio can cost where the advantage is negative (two-sided clipping, arXiv:2505.07291).
    """
    bounded_N = ratio_N if bound is None else ratio_N.clamp(max=bound)
    clipped_N = ratio_N.clamp(low, high)
    return -(bounded_N * advantages_N).minimum(clipped_N * advantages_N)


def clipped_value_losses(
    values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, *, reach: float
) -> tuple[Tensor, Tensor]:
    """Half the squared distance of values from the returns, or from where they are clipped to within `reach` of the old
    ones if that is more: no reward for moving farther (arXiv:1909.08593's code). And which of them are clipped so."""
    near_N = old_values_N + (values_N - old_values_N).clamp(-reach, reach)
    plain_N, clipped_N = (values_N - returns_N) ** 2, (near_N - returns_N) ** 2
    return plain_N.maximum(clipped_N) / 2, clipped_N > plain_N


def weighted_policy_losses(ratio_N: Tensor, advantages_N: Tensor, logprobs_N: Tensor, *, cap: float) -> Tensor:
    """CISPO: REINFORCE weighted by the capped ratio, so that no token loses its gradient (arXiv:2506.13585)."""
    return -ratio_N.detach().clamp(max=cap) * advantages_N * logprobs_N


def gated_policy_losses(ratio_N: Tensor, advantages_N: Tensor, *, positive: float, negative: float) -> Tensor:
    """SAPO: in place of clipping, a gate 4 sigmoid(t (ratio - 1)) / t with slope 1 at ratio 1, which closes faster the
    larger the temperature t is; one for positive advantages and one for others (arXiv:2511.20347)."""
    temperature_N = torch.full_like(advantages_N, negative).masked_fill(advantages_N > 0, positive)
    return -4 / temperature_N * torch.sigmoid(temperature_N * (ratio_N - 1)) * advantages_N


def gamma_weights(log_ratio_N: Tensor, advantages_N: Tensor, positive: Gamma, negative: Gamma) -> Tensor:
    """VESPO: w^k exp(lambda (1 - w)), which is 1 at w = 1, where w is the ratio of a whole completion
    (arXiv:2602.10693). No gradient goes through it; log w is bounded to [ln 1e-8, 20] as in the authors' code."""
    rises_N = advantages_N >= 0
    k_N = torch.full_like(advantages_N, negative.k).masked_fill(rises_N, positive.k)
    lambda_N = torch.full_like(advantages_N, negative.lambda_).masked_fill(rises_N, positive.lambda_)
    log_w_N = log_ratio_N.detach().clamp(_LEAST_LOG_W, _LARGEST_LOG_W)
    return torch.exp(lambda_N + k_N * log_w_N - lambda_N * log_w_N.exp())


def is_on_policy(
    logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, targets: Targets, *, threshold: float
) -> Tensor:
    """DeepSeek-V3.2's sequence mask: False for tokens with a negative advantage in a completion whose log-prob has
    fallen by more than `threshold` nats per token since it was drawn (arXiv:2512.02556, equation 9)."""
    fallen_N = sequence_means(old_logprobs_N - logprobs_N.detach(), targets.sequence_N, targets.lengths_S)
    return (advantages_N >= 0) | (fallen_N <= threshold)


def preference_losses(margin_B: Tensor, loss_type: Literal["sigmoid", "ipo"], *, beta: float) -> Tensor:
    """How badly each pair's margin keeps the preference; the margin is how much more the log-prob of the chosen answer
    has risen above the reference policy's than that of the rejected one, in nats.

    sigmoid: DPO's (arXiv:2305.18290, equation 7), ipo: a margin of 1 / (2 beta) is aimed at (arXiv:2310.12036,
    equation 17).
    """
    if loss_type == "ipo":
        return (margin_B - 1 / (2 * beta)) ** 2
    return -logsigmoid(beta * margin_B)


def kl_estimates(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """The divergence from the reference policy, estimated from the drawn tokens: never negative, in nats.

    http://joschu.net/blog/kl-approx.html calls this k3.
    """
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - difference_N - 1


def squared_kl_estimates(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """Half the squared log-ratio, in nats: its gradient is that of the divergence itself where tokens are drawn from
    the policy. http://joschu.net/blog/kl-approx.html calls this k2."""
    return (logprobs_N - reference_logprobs_N) ** 2 / 2


def truncated_weights(old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, *, cap: float) -> Tensor:
    """How much likelier a token is for the learner than where it was drawn, at most `cap`."""
    return (old_logprobs_N - sampler_logprobs_N).exp().clamp(max=cap)
