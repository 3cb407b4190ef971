"""Every loss type on numbers worked out by hand.

Two completions of one and two tokens:

    token      a0          b0          b1
    ratio      2           1/2         1
    advantage  +1          -1          -1
    loss       -min(2, 1.2) = -1.2     -min(-0.5, -0.8) = 0.8      1
"""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
import torch
from grpo_examples import grpo

from groat.algorithms.base import Forward, Loss, join_metrics
from groat.algorithms.losses import (
    clipped_policy_losses,
    kl_estimates,
    sequence_means,
    truncated_weights,
    weighted_policy_losses,
)
from groat.batching import Targets, Totals

TOTALS = Totals(sequences=2, tokens=3)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def hand_loss(totals: Totals = TOTALS, ratios: tuple[float, float, float] = (2.0, 0.5, 1.0), **config: object) -> Loss:
    """Old log-probs are -1, sampler's -1 - ln 4, -1 and -1, reference -1."""
    targets = Targets(
        token_ids_N=torch.tensor([5, 6, 7]),
        sequence_N=torch.tensor([0, 1, 1]),
        advantages_N=tensor(1, -1, -1),
        sampler_logprobs_N=tensor(-1 - log(4), -1, -1),
        old_logprobs_N=tensor(-1, -1, -1),
        reference_logprobs_N=tensor(-1, -1, -1),
        lengths_S=tensor(1, 2),
    )
    logprobs_N = tensor(*(log(ratio) - 1 for ratio in ratios)).requires_grad_()
    config = {"importance_sampling_correction": False} | config
    forward = Forward(logprobs_N=logprobs_N, entropy_N=tensor(1, 2, 6))
    return grpo(max_completion_length=10, **config).loss(forward, targets, totals)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", (-1.2 + (0.8 + 1) / 2) / 2),  # mean over tokens, then over the 2 sequences
        ("dr_grpo", (-1.2 + 0.8 + 1) / (2 * 10)),  # 2 sequences of at most 10 tokens
        ("dapo", (-1.2 + 0.8 + 1) / 3),  # the step's 3 tokens
        ("bnpo", (-1.2 + 0.8 + 1) / 3),
        # -min(ratio, 5) * A * logprob:
        ("cispo", (-2 * (log(2) - 1) + 0.5 * (log(0.5) - 1) + 1 * -1) / 3),
    ],
)
def test_loss_by_hand(loss_type: str, expected: float) -> None:
    assert hand_loss(loss_type=loss_type).total.item() == pytest.approx(expected, rel=1e-14)


def test_gradient_by_hand() -> None:
    """a0 is clipped (0), b0 is clipped (0), b1 has slope -A * ratio / tokens = 1/3."""
    logprobs_N = tensor(log(2), log(0.5), 0).requires_grad_()
    losses_N = clipped_policy_losses(logprobs_N.exp(), tensor(1, -1, -1), low=0.8, high=1.2)
    (losses_N.sum() / 3).backward()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.tolist() == pytest.approx([0, 0, 1 / 3])


def test_totals_count_what_is_not_in_the_micro_batch() -> None:
    totals = Totals(sequences=8, tokens=30)
    assert hand_loss(totals, loss_type="dapo").total.item() == pytest.approx(0.6 / 30)
    assert hand_loss(totals, loss_type="grpo").total.item() == pytest.approx(-0.3 / 8)


def test_sequence_level_uses_the_geometric_mean_of_the_ratios() -> None:
    """b: sqrt(1/2 * 1) = 0.707 for both tokens, clipped to 0.8; a: 2, clipped to 1.2."""
    loss = hand_loss(loss_type="grpo", importance_sampling_level="sequence")
    assert loss.total.item() == pytest.approx((-1.2 + 0.8) / 2)
    open_loss = hand_loss(loss_type="grpo", importance_sampling_level="sequence", epsilon=0.9, epsilon_high=3.0)
    assert open_loss.total.item() == pytest.approx((-2 + sqrt(0.5)) / 2)


def test_epsilon_high_clips_only_above() -> None:
    assert hand_loss(epsilon_high=0.5).total.item() == pytest.approx((-1.5 + 0.8 + 1) / 3)


def test_cispo_caps_the_ratio_at_5_unless_told_otherwise() -> None:
    by_default = hand_loss(loss_type="cispo", ratios=(20.0, 1.0, 1.0)).total.item()
    assert by_default == pytest.approx((-5 * (log(20) - 1) - 1 - 1) / 3)
    told = hand_loss(loss_type="cispo", ratios=(20.0, 1.0, 1.0), epsilon_high=3.0).total.item()
    assert told == pytest.approx((-3 * (log(20) - 1) - 1 - 1) / 3)


def test_delta_bounds_what_a_large_ratio_costs() -> None:
    """Without delta a ratio of 10 with advantage -1 costs 10; with delta 4 it costs 4."""
    assert clipped_policy_losses(tensor(10), tensor(-1), low=0.8, high=1.2).tolist() == [10]
    assert clipped_policy_losses(tensor(10), tensor(-1), low=0.8, high=1.2, bound=4).tolist() == [4]
    assert hand_loss(ratios=(2.0, 10.0, 1.0), delta=4.0).total.item() == pytest.approx((-1.2 + 4 + 1) / 3)


def test_kl_of_a_token_twice_as_likely_as_in_the_reference() -> None:
    """exp(-ln 2) + ln 2 - 1 = 0.1931...; half as likely: 2 - ln 2 - 1 = 0.3069..."""
    kl_N = kl_estimates(tensor(log(2), -log(2), 0), tensor(0, 0, 0))
    assert kl_N.tolist() == pytest.approx([log(2) - 0.5, 1 - log(2), 0])


def test_beta_adds_the_kl_of_every_token() -> None:
    kl = (log(2) - 0.5) + (1 - log(2)) + 0
    loss = hand_loss(beta=0.1)
    assert loss.total.item() == pytest.approx((0.6 + 0.1 * kl) / 3)
    assert join_metrics([loss])["kl"] == pytest.approx(kl / 3)


def test_correction_multiplies_a_token_by_its_truncated_weight_but_not_its_kl() -> None:
    """The learner finds a0 four times as likely as where it was drawn; the cap is 3."""
    kl = (log(2) - 0.5) + (1 - log(2))
    loss = hand_loss(importance_sampling_correction=True, importance_sampling_cap=3.0, beta=0.1)
    assert loss.total.item() == pytest.approx((3 * -1.2 + 0.8 + 1 + 0.1 * kl) / 3)
    metrics = join_metrics([loss])
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(5 / 3)
    assert metrics["sampling/importance_sampling_ratio/min"] == 1
    assert metrics["sampling/importance_sampling_ratio/max"] == 3


def test_truncated_weights_are_not_bounded_below() -> None:
    assert truncated_weights(tensor(0, 0, -5), tensor(0, -5, 0), cap=2).tolist() == pytest.approx([1, 2, exp(-5)])


def test_weighted_losses_have_no_gradient_through_the_ratio() -> None:
    logprobs_N = tensor(log(0.5)).requires_grad_()
    (slope_N,) = torch.autograd.grad(
        weighted_policy_losses(logprobs_N.exp(), tensor(2), logprobs_N, cap=5).sum(), logprobs_N
    )
    assert slope_N.item() == pytest.approx(-0.5 * 2)


def test_sequence_means_by_hand() -> None:
    means_N = sequence_means(tensor(1, 5, 3), torch.tensor([0, 1, 0]), tensor(2, 1))
    assert means_N.tolist() == [2, 5, 2]


def test_clip_metrics_count_tokens_pushed_over_the_border() -> None:
    """a0 is above and pushed up, b0 is below and pushed down, b1 is inside."""
    metrics = join_metrics([hand_loss()])
    assert metrics["clip_ratio/high_mean"] == pytest.approx(1 / 3)
    assert metrics["clip_ratio/low_mean"] == pytest.approx(1 / 3)
    assert metrics["clip_ratio/region_mean"] == pytest.approx(2 / 3)
    assert metrics["entropy"] == 3


def test_a_ratio_past_the_border_on_the_way_back_is_not_counted() -> None:
    """a0 (advantage +1) has fallen, b0 and b1 (advantage -1) have risen: nothing is clipped."""
    metrics = join_metrics([hand_loss(ratios=(0.5, 2.0, 2.0))])
    assert metrics["clip_ratio/region_mean"] == 0


def test_cispo_counts_capped_tokens_under_its_own_name() -> None:
    metrics = join_metrics([hand_loss(loss_type="cispo", ratios=(6.0, 6.0, 1.0))])
    assert metrics["cispo_clip_ratio"] == pytest.approx(1 / 3)
    assert "clip_ratio/low_mean" not in metrics


def test_metrics_carry_no_gradient() -> None:
    loss = hand_loss(beta=0.1, importance_sampling_correction=True)
    assert not any(metric.value.requires_grad for metric in loss.metrics.values())
    assert loss.total.requires_grad
