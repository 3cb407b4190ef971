"""What must not change a step: how it is split, in which order, what cannot train, and how it is differentiated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grpo_examples import (
    a_completion,
    a_group,
    gradient,
    grpo,
    packed,
    random_step,
    rloo,
    step_loss,
)

from groat.algorithms.base import Algorithm, join_metrics
from groat.types import Sample

LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo")


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_splitting_and_reordering_change_neither_loss_nor_gradient_nor_metrics(
    loss_type: str, level: str, beta: float
) -> None:
    step = random_step(seed=1)
    algorithm = grpo(loss_type=loss_type, importance_sampling_level=level, beta=beta)
    credit = algorithm.assign_credit(step.groups)
    whole = algorithm.loss(*packed(step, credit.samples), credit.totals)
    order = torch.randperm(len(credit.samples), generator=torch.Generator().manual_seed(2)).tolist()
    shuffled = [credit.samples[index] for index in order]
    parts = [
        algorithm.loss(*packed(step, samples), credit.totals) for samples in (shuffled[:1], shuffled[1:4], shuffled[4:])
    ]
    total = torch.stack([part.total for part in parts]).sum()
    torch.testing.assert_close(total, whole.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(total, step), gradient(whole.total, step), rtol=1e-12, atol=1e-12)
    assert join_metrics(parts) == pytest.approx(join_metrics([whole]), abs=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_group_without_contrast_has_exactly_no_gradient(loss_type: str) -> None:
    step = random_step()
    assert step.rewards_B[:3].tolist() == [0.1, 0.1, 0.1]
    gradient_BL = gradient(step_loss(grpo(loss_type=loss_type), step), step)
    assert gradient_BL[:3].abs().sum() == 0
    assert gradient_BL[3:].abs().sum() > 0


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_leaving_out_what_cannot_train_changes_nothing(loss_type: str) -> None:
    step = random_step()
    algorithm = grpo(loss_type=loss_type)
    credit = algorithm.assign_credit(step.groups)
    idle = [
        Sample(prompt=group.prompt, completion=completion, advantages=(0.0,) * len(completion.token_ids))
        for group in step.groups[:1]
        for completion in group.completions
    ]
    without = algorithm.loss(*packed(step, credit.samples), credit.totals).total
    with_idle = algorithm.loss(*packed(step, [*idle, *credit.samples]), credit.totals).total
    torch.testing.assert_close(without, with_idle, rtol=1e-14, atol=0)
    assert torch.equal(gradient(without, step), gradient(with_idle, step))


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_gradient_agrees_with_finite_differences(loss_type: str, level: str) -> None:
    step = random_step(seed=3, num_groups=2)
    algorithm = grpo(loss_type=loss_type, importance_sampling_level=level, beta=0.2, delta=1.5)
    credit = algorithm.assign_credit(step.groups)
    _, targets = packed(step, credit.samples)

    def loss_of(logprobs_BL: torch.Tensor) -> torch.Tensor:
        forward, _ = packed(replace(step, logprobs_BL=logprobs_BL), credit.samples)
        return algorithm.loss(forward, targets, credit.totals).total

    assert torch.autograd.gradcheck(loss_of, (step.logprobs_BL,), eps=1e-6, atol=1e-7)


def test_cispo_differentiates_the_logprob_alone() -> None:
    """Finite differences would disagree: the ratio is a constant weight, so the slope is -ratio * A / tokens."""
    step = random_step()
    algorithm = grpo(loss_type="cispo", scale_rewards="none", importance_sampling_correction=False)
    credit = algorithm.assign_credit(step.groups)
    num_tokens = int(step.mask_BL.sum())
    forward, targets = packed(step, credit.samples)
    assert targets.old_logprobs_N is not None
    slope_N = torch.autograd.grad(algorithm.loss(forward, targets, credit.totals).total, forward.logprobs_N)[0]
    ratio_N = (forward.logprobs_N - targets.old_logprobs_N).exp().clamp(max=5)
    expected_N = -ratio_N * targets.advantages_N / num_tokens
    torch.testing.assert_close(slope_N, expected_N, rtol=1e-12, atol=1e-15)


def test_on_the_first_update_the_ratio_is_one_and_the_gradient_is_not_zero() -> None:
    step = random_step()
    algorithm = grpo(loss_type="dapo", scale_rewards="none", importance_sampling_correction=False)
    credit = algorithm.assign_credit(step.groups)
    num_tokens = int(step.mask_BL.sum())
    forward, targets = packed(step, credit.samples, old_is_known=False)
    loss = algorithm.loss(forward, targets, credit.totals).total
    expected = -targets.advantages_N.sum() / num_tokens
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    slope_N = torch.autograd.grad(loss, forward.logprobs_N)[0]
    torch.testing.assert_close(slope_N, -targets.advantages_N / num_tokens, rtol=1e-12, atol=1e-15)


def first_gradient(algorithm: Algorithm) -> torch.Tensor:
    """Of the update in which every ratio is 1, over the gradient's own length: what AdamW sees."""
    step = random_step()
    gradient_BL = gradient(step_loss(algorithm, step, old_is_known=False), step)
    return gradient_BL / gradient_BL.norm()


def on_policy(loss_type: str, level: str = "token", scale: str = "none") -> Algorithm:
    return grpo(
        loss_type=loss_type,
        importance_sampling_level=level,
        scale_rewards=scale,
        importance_sampling_correction=False,
    )


@pytest.mark.parametrize(
    ("algorithm", "same_as"),
    [
        (on_policy("bnpo"), on_policy("dapo")),
        (on_policy("cispo"), on_policy("dapo")),
        (on_policy("vespo"), on_policy("dapo")),
        (on_policy("dr_grpo"), on_policy("dapo")),
        (on_policy("luspo", "sequence"), on_policy("dapo")),
        (rloo(beta=0.0), on_policy("dapo")),
        (on_policy("sapo"), on_policy("grpo")),
        (on_policy("grpo", "sequence"), on_policy("grpo")),
    ],
)
def test_in_the_first_update_these_algorithms_go_the_same_way(algorithm: Algorithm, same_as: Algorithm) -> None:
    torch.testing.assert_close(first_gradient(algorithm), first_gradient(same_as), rtol=1e-9, atol=1e-12)


def test_a_mean_over_each_answer_goes_another_way() -> None:
    assert not torch.allclose(first_gradient(on_policy("grpo")), first_gradient(on_policy("dapo")), rtol=0.1)


def test_a_truncated_completion_shapes_its_group_but_has_no_gradient_when_masked() -> None:
    group = a_group([0.0, 1.0], [a_completion(3, row=0, truncated=True), a_completion(2, row=1)])
    credit = grpo(mask_truncated_completions=True, scale_rewards="none").assign_credit([group])
    (sample,) = credit.samples
    assert sample.completion.token_ids == (1, 1)
    assert sample.advantages == (0.5, 0.5)
    assert (credit.totals.sequences, credit.totals.tokens) == (2, 2)
