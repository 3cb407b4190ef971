"""What must not change a step of any algorithm: how it is split, in which order, and how it is differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import pytest
import torch
from grpo_examples import gradient, grpo, online_dpo, packed, ppo, random_step, reinforce, rloo

from groat.algorithms.base import Algorithm, join_metrics
from groat.types import Sample

ALGORITHMS: dict[str, Algorithm] = {
    "rloo": rloo(),
    "rloo with normalized advantages": rloo(beta=0.0, normalize_advantages=True),
    "reinforce++": reinforce(beta=0.1, baseline="none"),
    "reinforce++ with a baseline": reinforce(beta=0.1),
    "dpo": online_dpo(),
    "ipo": online_dpo(loss_type="ipo"),
    "sapo": grpo(loss_type="sapo"),
    "luspo": grpo(loss_type="luspo", importance_sampling_level="sequence"),
    "vespo": grpo(loss_type="vespo"),
    "gdpo": grpo(multi_objective_aggregation="normalize_then_sum"),
    "top entropy": grpo(top_entropy_quantile=0.4),
    "entropy term": grpo(entropy_coef=0.2),
    "off-policy mask": grpo(off_policy_mask_threshold=0.1),
    "dapo": grpo(epsilon_high=0.28),
    "ppo": ppo(),
    "ppo with whitened rewards": ppo(whiten_rewards=True, kl_estimator="k3", whiten_advantages=False, gamma=0.9),
}
everywhere = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS.keys())


def shuffled_parts(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Three micro-batches in another order; what has a joint loss stays together."""
    bundles: dict[object, list[Sample]] = {}
    for index, sample in enumerate(samples):
        bundles.setdefault(("alone", index) if sample.bundle is None else sample.bundle, []).append(sample)
    order = torch.randperm(len(bundles), generator=torch.Generator().manual_seed(2)).tolist()
    in_order = [list(bundles.values())[place] for place in order]
    cuts = (in_order[:1], in_order[1:3], in_order[3:])
    return [[sample for bundle in cut for sample in bundle] for cut in cuts if cut]


@everywhere
def test_splitting_and_reordering_change_neither_loss_nor_gradient_nor_metrics(algorithm: Algorithm) -> None:
    step = random_step(seed=1, num_groups=6)
    credit = algorithm.assign_credit(step.groups)
    whole = algorithm.loss(*packed(step, credit.samples), credit.totals)
    parts = [algorithm.loss(*packed(step, part), credit.totals) for part in shuffled_parts(credit.samples)]
    total = torch.stack([part.total for part in parts]).sum()
    assert len(parts) == 3
    torch.testing.assert_close(total, whole.total, rtol=1e-12, atol=1e-12)
    of_the_whole_BL = gradient(whole.total, step)
    torch.testing.assert_close(gradient(total, step), of_the_whole_BL, rtol=1e-12, atol=1e-12)
    assert of_the_whole_BL.abs().max() > 1e-3
    assert join_metrics(parts) == pytest.approx(join_metrics([whole]), abs=1e-12)


@everywhere
def test_the_order_of_the_groups_changes_nothing(algorithm: Algorithm) -> None:
    step = random_step(seed=4, num_groups=5)
    credits = [algorithm.assign_credit(groups) for groups in (step.groups, step.groups[::-1])]
    totals = [algorithm.loss(*packed(step, credit.samples), credit.totals).total for credit in credits]
    torch.testing.assert_close(*totals, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(gradient(total, step) for total in totals), rtol=1e-12, atol=1e-12)


@everywhere
def test_tokens_behind_a_completions_end_have_no_gradient(algorithm: Algorithm) -> None:
    step = random_step(seed=5)
    credit = algorithm.assign_credit(step.groups)
    found_BL = gradient(algorithm.loss(*packed(step, credit.samples), credit.totals).total, step)
    assert not found_BL[~step.mask_BL].any()


# cispo and vespo hold their weight constant: `test_vespo_differentiates_the_logprob_alone`.
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "vespo"])
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    step, algorithm = random_step(seed=3, num_groups=3), ALGORITHMS[name]
    credit = algorithm.assign_credit(step.groups)
    _, targets = packed(step, credit.samples)

    def loss_of(logprobs_BL: torch.Tensor, entropies_BL: torch.Tensor) -> torch.Tensor:
        changed = replace(step, logprobs_BL=logprobs_BL, entropies_BL=entropies_BL)
        forward, _ = packed(changed, credit.samples)
        # Entropies are a gradient's way only where they are asked for.
        return algorithm.loss(forward, targets, credit.totals).total + 0 * entropies_BL.sum()

    assert torch.autograd.gradcheck(loss_of, (step.logprobs_BL, step.entropies_BL), eps=1e-6, atol=1e-7)


def test_vespo_differentiates_the_logprob_alone() -> None:
    """The weight of a completion is a constant: the slope at its tokens is -phi A / tokens, the same for all."""
    step, algorithm = random_step(), grpo(loss_type="vespo", scale_rewards="none", importance_sampling_correction=False)
    credit = algorithm.assign_credit(step.groups)
    found_BL = gradient(algorithm.loss(*packed(step, credit.samples), credit.totals).total, step)
    for sample in credit.samples:
        row, length, advantage = sample.completion.token_ids[0], sample.num_tokens, sample.advantages[0]
        log_w = float((step.logprobs_BL - step.old_logprobs_BL)[row, :length].sum())
        k, lambda_ = (2, 3) if advantage > 0 else (3, 2)
        phi = exp(lambda_ + k * log_w - lambda_ * exp(log_w))
        expected = -phi * advantage / int(step.mask_BL.sum())
        assert found_BL[row, :length].tolist() == pytest.approx([expected] * length, rel=1e-10)
