"""Our packed losses and TRL's padded ones are the same numbers."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from grpo_examples import gradient, grpo, random_step, step_loss
from padded_trl import trl_loss

CLIPPED = ("grpo", "dr_grpo", "dapo", "bnpo")
LOSS_TYPES = (*CLIPPED, "cispo")
# TRL has no cap of its own for cispo: both sides are told.
HIGH = {"cispo": 1.4}


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_loss_and_gradient_equal_trls_padded_formulas(loss_type: str, level: str, beta: float) -> None:
    step = random_step()
    for delta, corrected, masked, old_is_known, scale in product(
        (None, 1.5) if loss_type in CLIPPED else (None,),
        (True, False),
        (True, False),
        (True, False),
        ("group", "batch", "none"),
    ):
        algorithm = grpo(
            max_completion_length=9,
            loss_type=loss_type,
            importance_sampling_level=level,
            beta=beta,
            epsilon_high=HIGH.get(loss_type),
            delta=delta,
            importance_sampling_correction=corrected,
            importance_sampling_cap=1.2,
            mask_truncated_completions=masked,
            scale_rewards=scale,
        )
        ours = step_loss(algorithm, step, old_is_known=old_is_known)
        theirs = trl_loss(algorithm.config, step, 9, old_is_known=old_is_known)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(ours, step), gradient(theirs, step), rtol=1e-12, atol=1e-12)


def test_the_comparison_meets_every_kind_of_clipping() -> None:
    step = random_step()
    ratio_BL = torch.exp(step.logprobs_BL - step.old_logprobs_BL)[step.mask_BL]
    weights_BL = torch.exp(step.old_logprobs_BL - step.sampler_logprobs_BL)[step.mask_BL]
    assert (ratio_BL < 0.8).any()
    assert ((ratio_BL > 1.2) & (ratio_BL < 1.4)).any()
    assert (ratio_BL > 1.5).any()
    assert (weights_BL > 1.2).any()
    assert (weights_BL < 1.2).any()
    assert step.truncated_B.any()
    assert not step.truncated_B.all()
