"""The losses of RLOO, REINFORCE++, Online DPO and GRPO's later forms on numbers worked out by hand.

Two completions of one and two tokens, as in `test_grpo_by_hand.py`:

    token      a0          b0          b1
    ratio      2           1/2         1
    advantage  +1          -1          -1
"""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
from grpo_examples import grpo, online_dpo, reinforce, rloo

from groat.algorithms.base import Algorithm, Forward, Loss, join_metrics
from groat.algorithms.losses import (
    Gamma,
    clipped_policy_losses,
    gamma_weights,
    gated_policy_losses,
    preference_losses,
    sequence_sums,
    squared_kl_estimates,
)
from groat.batching import Targets, Totals

TOTALS = Totals(sequences=2, tokens=3, groups=1)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


TARGETS = Targets(
    token_ids_N=torch.tensor([5, 6, 7]),
    sequence_N=torch.tensor([0, 1, 1]),
    advantages_N=tensor(1, -1, -1),
    sampler_logprobs_N=tensor(-1, -1, -1),
    old_logprobs_N=tensor(-1, -1, -1),
    reference_logprobs_N=tensor(-1, -1, -1),
    lengths_S=tensor(1, 2),
)


def forward_of(*ratios: float) -> Forward:
    return Forward(
        logprobs_N=tensor(*(log(ratio) - 1 for ratio in ratios)).requires_grad_(),
        entropy_N=tensor(1, 2, 6).requires_grad_(),
    )


def loss_of(algorithm: Algorithm, ratios: tuple[float, float, float] = (2.0, 0.5, 1.0), **targets: object) -> Loss:
    return algorithm.loss(forward_of(*ratios), replace(TARGETS, **targets), TOTALS)  # type: ignore[arg-type]


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


# GRPO's later forms


def test_sapo_gates_the_ratio_with_a_temperature_for_each_sign() -> None:
    """a0: 4 sigmoid(1 (2 - 1)) / 1; b0: 4 sigmoid(1.05 (1/2 - 1)) / 1.05; b1: 4 / 2 / 1.05. A mean of means."""
    a0, b0, b1 = -4 * sigmoid(1), 4 * sigmoid(-0.525) / 1.05, 2 / 1.05
    loss = loss_of(grpo(loss_type="sapo"))
    assert loss.total.item() == pytest.approx((a0 + (b0 + b1) / 2) / 2, rel=1e-12)
    assert "clip_ratio/low_mean" not in loss.metrics


def test_sapos_gate_has_slope_one_where_the_ratio_is_one() -> None:
    logprobs_N = tensor(0, 0).requires_grad_()
    losses_N = gated_policy_losses(logprobs_N.exp(), tensor(3, -3), positive=0.5, negative=7.0)
    assert torch.autograd.grad(losses_N.sum(), logprobs_N)[0].tolist() == pytest.approx([-3, 3])


def test_luspo_weights_a_completion_by_its_length() -> None:
    """a: ratio 2, clipped to 1.2; b: sqrt(1/2), clipped to 0.8, twice. GSPO's mean would count it once."""
    loss = loss_of(grpo(loss_type="luspo", importance_sampling_level="sequence"))
    assert loss.total.item() == pytest.approx((-1.2 + 2 * 0.8) / 2)


def test_vespo_weights_by_the_ratio_of_the_whole_completion() -> None:
    """a: w = 2, phi = 2^2 e^(3 (1 - 2)); b: w = 1/2, phi = (1/2)^3 e^(2 (1 - 1/2)). Loss -phi A logp, by tokens."""
    phi_a, phi_b = 4 * exp(-3), exp(1) / 8
    expected = (-phi_a * (log(2) - 1) + phi_b * (log(0.5) - 1) + phi_b * -1) / 3
    loss = loss_of(grpo(loss_type="vespo"))
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)
    assert join_metrics([loss])["vespo/phi_mean"] == pytest.approx((phi_a + 2 * phi_b) / 3)


def test_vespo_takes_the_samplers_weight_into_its_ratio() -> None:
    """b0 was drawn with e^-1 / 4: its truncated weight 3 makes b's w 3/2, and multiplies nothing else."""
    phi_a, phi_b = 4 * exp(-3), 1.5**3 * exp(2 * (1 - 1.5))
    expected = (-phi_a * (log(2) - 1) + phi_b * (log(0.5) - 1) + phi_b * -1) / 3
    loss = loss_of(grpo(loss_type="vespo"), sampler_logprobs_N=tensor(-1, -1 - log(4), -1))
    assert loss.total.item() == pytest.approx(expected, rel=1e-12)


def test_vespos_weight_has_no_gradient_and_no_overflow() -> None:
    log_ratio_N = tensor(0, 500, -500).requires_grad_()
    phi_N = gamma_weights(log_ratio_N, tensor(1, 1, -1), Gamma(2, 3), Gamma(3, 2))
    assert not phi_N.requires_grad
    assert phi_N.tolist() == pytest.approx([1, 0, 1e-24 * exp(2 - 2e-8)], abs=1e-30)


def test_off_policy_mask_leaves_out_bad_completions_that_have_become_unlikely() -> None:
    """b has fallen by ln(2) / 2 = 0.347 a token; a has risen, and has a positive advantage anyway."""
    kept = loss_of(grpo(off_policy_mask_threshold=0.35))
    masked = loss_of(grpo(off_policy_mask_threshold=0.34))
    assert kept.total.item() == pytest.approx((-1.2 + 0.8 + 1) / 3)
    assert masked.total.item() == pytest.approx(-1.2 / 3)
    assert join_metrics([masked])["off_policy_masked"] == pytest.approx(2 / 3)
    good = loss_of(grpo(off_policy_mask_threshold=0.34), advantages_N=tensor(1, 1, 1))
    assert good.total.item() == pytest.approx((-1.2 - 0.5 - 1) / 3)


def test_off_policy_mask_keeps_the_kl_term() -> None:
    kl = (log(2) - 0.5) + (1 - log(2)) + 0
    loss = loss_of(grpo(off_policy_mask_threshold=0.34, beta=0.1))
    assert loss.total.item() == pytest.approx((-1.2 + 0.1 * kl) / 3)


def test_entropy_term_rewards_the_mean_entropy() -> None:
    """Entropies 1, 2 and 6: mean 3."""
    algorithm, forward = grpo(entropy_coef=0.5, loss_type="grpo"), forward_of(2.0, 0.5, 1.0)
    loss = algorithm.loss(forward, TARGETS, TOTALS)
    assert loss.total.item() == pytest.approx((-1.2 + (0.8 + 1) / 2) / 2 - 0.5 * 3)
    assert forward.entropy_N is not None
    assert torch.autograd.grad(loss.total, forward.entropy_N)[0].tolist() == pytest.approx([-0.5 / 3] * 3)
    assert algorithm.needs.entropy_gradient
    assert not grpo().needs.entropy_gradient


# RLOO


def test_rloo_clips_the_ratio_of_the_whole_completion() -> None:
    """a: 2, clipped to 1.2; b: 1/2 * 1, clipped to 0.8. A mean over completions, whatever their lengths."""
    loss = loss_of(rloo())
    assert loss.total.item() == pytest.approx((-1.2 + 0.8) / 2)
    metrics = join_metrics([loss])
    assert (metrics["clip_ratio/high_mean"], metrics["clip_ratio/low_mean"]) == (0.5, 0.5)


def test_rloos_first_gradient_is_reinforce() -> None:
    """-A / completions at every token, however long the completion."""
    forward = forward_of(2.0, 0.5, 1.0)
    loss = rloo().loss(forward, replace(TARGETS, old_logprobs_N=None), TOTALS)
    assert loss.total.item() == pytest.approx(0)
    assert torch.autograd.grad(loss.total, forward.logprobs_N)[0].tolist() == pytest.approx([-0.5, 0.5, 0.5])


# REINFORCE++


def test_reinforce_is_a_mean_over_tokens_with_kl_in_the_loss() -> None:
    """k2 is half the squared log-ratio: ln(2)^2 / 2 for a0 and for b0, 0 for b1."""
    assert loss_of(reinforce()).total.item() == pytest.approx((-1.2 + 0.8 + 1) / 3)
    assert loss_of(reinforce(beta=0.1)).total.item() == pytest.approx((-1.2 + 0.8 + 1 + 0.1 * log(2) ** 2) / 3)


def test_with_kl_in_the_reward_the_loss_has_none() -> None:
    assert loss_of(reinforce(beta=0.1, baseline="none")).total.item() == pytest.approx((-1.2 + 0.8 + 1) / 3)


def test_k2_has_the_gradient_of_the_log_ratio() -> None:
    logprobs_N = tensor(-1, -3).requires_grad_()
    kl_N = squared_kl_estimates(logprobs_N, tensor(-2, -1))
    assert kl_N.tolist() == [0.5, 2]
    assert torch.autograd.grad(kl_N.sum(), logprobs_N)[0].tolist() == [1, -2]


# Online DPO


def test_dpo_loss_of_a_pair() -> None:
    """Chosen a has risen by ln 2, rejected b by ln(1/2) + 0: margin 2 ln 2. -ln sigmoid(0.5 * 2 ln 2) = ln(3/2)."""
    loss = loss_of(online_dpo(beta=0.5), bundle_S=torch.tensor([0, 0]))
    assert loss.total.item() == pytest.approx(log(1.5))
    metrics = join_metrics([loss])
    assert metrics["rewards/margins"] == pytest.approx(log(2))
    assert metrics["rewards/accuracies"] == 1


def test_ipo_loss_of_a_pair() -> None:
    """It aims at a margin of 1 / (2 * 0.5) = 1."""
    loss = loss_of(online_dpo(beta=0.5, loss_type="ipo"), bundle_S=torch.tensor([0, 0]))
    assert loss.total.item() == pytest.approx((2 * log(2) - 1) ** 2)


def test_dpo_gradient_at_the_reference() -> None:
    """beta sigmoid(0) up for the chosen answer's token, down for each of the rejected one's."""
    forward = forward_of(1.0, 1.0, 1.0)
    loss = online_dpo(beta=0.4).loss(forward, replace(TARGETS, bundle_S=torch.tensor([0, 0])), TOTALS)
    assert torch.autograd.grad(loss.total, forward.logprobs_N)[0].tolist() == pytest.approx([-0.2, 0.2, 0.2])


def test_large_margins_are_finite() -> None:
    assert preference_losses(tensor(-1e4, 1e4), "sigmoid", beta=1.0).tolist() == [1e4, 0]


def test_sequence_sums_by_hand() -> None:
    assert sequence_sums(tensor(1, 5, 3), torch.tensor([0, 1, 0]), tensor(2, 1)).tolist() == [4, 5]


def test_clipping_is_shared() -> None:
    losses_N = clipped_policy_losses(tensor(2, 0.5), tensor(1, -1), low=0.8, high=1.28)
    assert losses_N.tolist() == pytest.approx([-1.28, 0.8])
