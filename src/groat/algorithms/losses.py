"""Losses per token and the terms they are made of: pure functions of small tensors (N tokens, S samples)."""

from __future__ import annotations

from torch import Tensor


def sequence_means(values_N: Tensor, sequence_N: Tensor, lengths_S: Tensor) -> Tensor:
    """Each token gets the mean of its sequence."""
    sums_S = values_N.new_zeros(lengths_S.shape).index_add(0, sequence_N, values_N)
    return sums_S[sequence_N] / lengths_S[sequence_N]


def clipped_policy_losses(
    ratio_N: Tensor, advantages_N: Tensor, *, low: float, high: float, bound: float | None = None
) -> Tensor:
    """PPO's pessimistic surrogate: no reward for leaving [low, high].

    `bound` also limits what a ratio can cost where the advantage is negative (two-sided clipping, arXiv:2505.07291).
    """
    bounded_N = ratio_N if bound is None else ratio_N.clamp(max=bound)
    clipped_N = ratio_N.clamp(low, high)
    return -(bounded_N * advantages_N).minimum(clipped_N * advantages_N)


def weighted_policy_losses(ratio_N: Tensor, advantages_N: Tensor, logprobs_N: Tensor, *, cap: float) -> Tensor:
    """CISPO: REINFORCE weighted by the capped ratio, so that no token loses its gradient (arXiv:2506.13585)."""
    return -ratio_N.detach().clamp(max=cap) * advantages_N * logprobs_N


def kl_estimates(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """The divergence from the reference policy, estimated from the drawn tokens: never negative, in nats.

    http://joschu.net/blog/kl-approx.html calls this k3.
    """
    difference_N = reference_logprobs_N - logprobs_N
    return difference_N.exp() - difference_N - 1


def truncated_weights(old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, *, cap: float) -> Tensor:
    """How much likelier a token is for the learner than where it was drawn, at most `cap`."""
    return (old_logprobs_N - sampler_logprobs_N).exp().clamp(max=cap)
