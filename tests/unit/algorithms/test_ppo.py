"""PPO on numbers worked out by hand, its value loss, and what must not change it.

`test_invariance_of_algorithms.py` has its policy loss, `test_ppo_against_trl.py` compares with TRL's trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from grpo_examples import a_completion, a_group, packed, places_of, ppo, random_step

from groat.algorithms.advantages import generalized_advantages, whitened
from groat.algorithms.base import ActorCritic, Credit, Forward, Needs, join_metrics
from groat.algorithms.ppo import PPO
from groat.algorithms.registry import build_algorithm
from groat.batching import Targets, Totals
from groat.config.algorithms import PPOAlgorithmConfig
from groat.types import Completion, Group, Sample


def scored(
    values: Sequence[float],
    *,
    old: Sequence[float] | None = None,
    reference: Sequence[float] | None = None,
    row: int = 0,
    truncated: bool = False,
) -> Completion:
    """A completion of as many tokens as there are values; its log-probs are -1 where they are not given."""
    return replace(
        a_completion(len(values), row=row, truncated=truncated),
        values=tuple(values),
        old_logprobs=tuple(old or [-1.0] * len(values)),
        reference_logprobs=tuple(reference or [-1.0] * len(values)),
    )


def credit_of(algorithm: PPO, rewards: Sequence[float], *completions: Completion) -> Credit:
    return algorithm.assign_credit([a_group(rewards, completions)])


# Generalized advantage estimation


def test_advantages_by_hand() -> None:
    """gamma = lam = 1/2. Surprises: 0 + 0.25/2 - 0.5, 0 + 0.75/2 - 0.25, 1 - 0.75; each and a quarter of the next."""
    found = generalized_advantages(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.75]), gamma=0.5, lam=0.5)
    assert found.tolist() == [-0.375 + 0.1875 / 4, 0.125 + 0.25 / 4, 0.25]


def test_with_lambda_1_a_token_gets_what_came_less_what_was_expected() -> None:
    found = generalized_advantages(np.array([0.5, -1.0, 2.0]), np.array([0.25, 3.0, 1.0]), gamma=1, lam=1)
    assert found.tolist() == [1.5 - 0.25, 1.0 - 3.0, 2.0 - 1.0]


def test_with_lambda_0_it_gets_the_surprise_of_the_next_state_alone() -> None:
    found = generalized_advantages(np.array([0.5, -1.0, 2.0]), np.array([0.25, 3.0, 1.0]), gamma=1, lam=0)
    assert found.tolist() == [0.5 + 3.0 - 0.25, -1.0 + 1.0 - 3.0, 2.0 - 1.0]


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_recursion_is_the_sum_of_the_paper(length: int) -> None:
    """Equation 16: the sum over l of (gamma lam)^l times the surprise l tokens later."""
    random, gamma, lam = np.random.default_rng(length), 0.9, 0.8
    rewards, values = random.normal(size=length), random.normal(size=length)
    surprises = [rewards[t] + (gamma * values[t + 1] if t + 1 < length else 0.0) - values[t] for t in range(length)]
    expected = [
        sum((gamma * lam) ** (later - t) * surprises[later] for later in range(t, length)) for t in range(length)
    ]
    assert generalized_advantages(rewards, values, gamma=gamma, lam=lam) == pytest.approx(expected, abs=1e-12)


def test_whitened_numbers_by_hand() -> None:
    """1, 2 and 6: mean 3, squares 4 + 1 + 9 over 2."""
    parts, deviation = [np.array([1.0]), np.array([2.0, 6.0])], sqrt(7 + 1e-8)
    assert [part.tolist() for part in whitened(parts)] == [
        pytest.approx([-2 / deviation]),
        pytest.approx([-1 / deviation, 3 / deviation]),
    ]
    assert [part.tolist() for part in whitened(parts, keep_mean=True)] == [
        pytest.approx([3 - 2 / deviation]),
        pytest.approx([3 - 1 / deviation, 3 + 3 / deviation]),
    ]


def test_equal_numbers_have_nothing_to_whiten() -> None:
    assert [part.tolist() for part in whitened([np.array([0.1]), np.array([0.1, 0.1])])] == [[0.0], [0.0, 0.0]]
    assert [part.tolist() for part in whitened([np.array([0.1])], keep_mean=True)] == [[0.1]]


# Credit


def test_the_last_token_has_the_reward_and_every_token_pays_for_its_divergence() -> None:
    """Log-ratios 0.5 and 0.25 at 0.2 a nat: rewards -0.1 and 1 - 0.05, and nothing was expected."""
    algorithm = ppo(kl_coef=0.2, lam=1.0, whiten_advantages=False)
    credit = credit_of(algorithm, [1.0], scored([0.0, 0.0], reference=[-1.5, -1.25]))
    [sample] = credit.samples
    assert sample.advantages == sample.returns == pytest.approx((0.85, 0.95))
    assert credit.metrics["kl"] == pytest.approx(0.375)
    assert credit.metrics["reward"] == 1.0


def test_the_other_estimate_of_divergence() -> None:
    """k3 of a log-ratio x is exp(-x) - 1 + x, and at x = -1 the fall costs e - 2."""
    algorithm = ppo(kl_coef=0.1, kl_estimator="k3", lam=1.0, whiten_advantages=False)
    [sample] = credit_of(algorithm, [0.0], scored([0.0, 0.0], old=[-1, -2], reference=[-2, -1])).samples
    first, second = exp(-1), exp(1) - 2
    assert sample.advantages == pytest.approx((-0.1 * (first + second), -0.1 * second))


def test_divergence_is_the_samplers_where_the_learner_has_no_logprobs() -> None:
    """policy_logprobs are -1 in these examples."""
    completion = replace(scored([0.0], reference=[-1.5]), old_logprobs=None)
    [sample] = credit_of(ppo(kl_coef=1.0, whiten_advantages=False), [0.0], completion).samples
    assert sample.advantages == (-0.5,)


def test_returns_are_advantages_and_values_before_advantages_are_whitened() -> None:
    """lam 1: returns are the rewards 1 and 0 at every token. Advantages 0.5, 0.25 and -1, mean -1/12."""
    algorithm = ppo(kl_coef=0.0, lam=1.0)
    credit = credit_of(algorithm, [1.0, 0.0], scored([0.5, 0.75], row=0), scored([1.0], row=1))
    assert [sample.returns for sample in credit.samples] == [(1.0, 1.0), (0.0,)]
    centred = np.array([0.5, 0.25, -1.0]) + 1 / 12
    expected = centred / sqrt((centred**2).sum() / 2 + 1e-8)
    assert [a for sample in credit.samples for a in sample.advantages] == pytest.approx(expected.tolist())


def test_whitened_rewards_come_before_values_are_taken_off() -> None:
    """Rewards 0, 1 and 0 (mean 1/3, variance 1/3) keep their mean; lam 0 and values 0 leave them as advantages."""
    algorithm = ppo(kl_coef=0.0, lam=0.0, whiten_rewards=True, whiten_advantages=False)
    credit = credit_of(algorithm, [1.0, 0.0], scored([0.0, 0.0], row=0), scored([0.0], row=1))
    low, high = 1 / 3 - 1 / 3 / sqrt(1 / 3 + 1e-8), 1 / 3 + 2 / 3 / sqrt(1 / 3 + 1e-8)
    assert [a for sample in credit.samples for a in sample.advantages] == pytest.approx([low, high, low])


def test_a_completion_that_was_cut_off_pays_the_penalty() -> None:
    algorithm = ppo(kl_coef=0.0, lam=1.0, whiten_advantages=False, missing_eos_penalty=0.25)
    credit = credit_of(algorithm, [1.0, 1.0], scored([0.0], row=0, truncated=True), scored([0.0], row=1))
    assert [sample.advantages for sample in credit.samples] == [(0.75,), (1.0,)]


def test_how_much_the_values_had_foreseen() -> None:
    """Returns 1 and 0. Foreseen to the number; not at all; and half of the way: 1 - (1/4)^2 / (1/2)^2."""
    algorithm = ppo(kl_coef=0.0)
    for values, explained in (((1.0, 0.0), 1.0), ((0.3, 0.3), 0.0), ((0.75, 0.25), 0.75)):
        credit = credit_of(algorithm, [1.0, 0.0], *(scored([value], row=row) for row, value in enumerate(values)))
        assert credit.metrics["val/explained_variance"] == pytest.approx(explained)
        assert credit.metrics["val/mean"] == pytest.approx(sum(values) / 2)


def test_one_completion_to_a_prompt_will_do_and_all_of_them_train() -> None:
    groups = [a_group([reward], [scored([0.0], row=row)]) for row, reward in enumerate((1.0, 1.0, 0.0))]
    credit = ppo(kl_coef=0.0).assign_credit(groups)
    assert [sample.advantages[0] > 0 for sample in credit.samples] == [True, True, False]
    assert (credit.totals.sequences, credit.totals.tokens) == (3, 3)


# Mini-batches


def groups_of(count: int, version: int = 0) -> list[Group]:
    completions = [replace(scored([0.1] * (1 + row % 3), row=row), policy_version=version) for row in range(count)]
    return [a_group([row % 2], [completion]) for row, completion in enumerate(completions)]


def rows(credit: Credit) -> list[int]:
    return [sample.completion.token_ids[0] for sample in credit.samples]


def test_every_epoch_shares_out_all_completions_in_another_order() -> None:
    algorithm = ppo(num_ppo_epochs=3, num_mini_batches=4)
    whole = algorithm.assign_credit(groups_of(12))
    assert [len(share.samples) for share in whole.mini_batches] == [3] * 12
    epochs = [whole.mini_batches[start : start + 4] for start in (0, 4, 8)]
    orders = [[row for share in epoch for row in rows(share)] for epoch in epochs]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    for share in whole.mini_batches:
        assert share.totals.tokens == sum(sample.num_tokens for sample in share.samples)
        assert all(sample in whole.samples for sample in share.samples)


def test_the_order_depends_on_the_policy_alone() -> None:
    def shares(version: int) -> list[list[int]]:
        algorithm = ppo(num_ppo_epochs=1, num_mini_batches=3)
        return [rows(share) for share in algorithm.assign_credit(groups_of(12, version)).mini_batches]

    assert shares(5) == shares(5)
    assert shares(5) != shares(6)


def test_without_mini_batches_every_update_learns_from_everything() -> None:
    algorithm = ppo(num_ppo_epochs=3)
    assert algorithm.assign_credit(groups_of(4)).mini_batches == ()
    assert algorithm.num_iterations == 3
    assert ppo(num_ppo_epochs=3, num_mini_batches=2).num_iterations == 6


# Losses


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


TARGETS = Targets(
    token_ids_N=torch.tensor([5, 6, 7]),
    sequence_N=torch.tensor([0, 1, 1]),
    advantages_N=tensor(2, -1, 1),
    sampler_logprobs_N=tensor(-1, -1, -1),
    old_logprobs_N=tensor(-1, -1, -1),
    old_values_N=tensor(0.5, 0.5, 0.5),
    returns_N=tensor(2, 0, 0.75),
    lengths_S=tensor(1, 2),
)
TOTALS = Totals(sequences=3, tokens=4)
"""One token of the update lies in another micro-batch."""


def test_the_policys_loss_by_hand() -> None:
    """Ratios 1.5, 0.5, 1.1: 2 x 1.2 is clipped; -0.5 would be the gain, but -0.8 is the worse; 1.1 as it is."""
    logprobs_N = tensor(*(log(ratio) - 1 for ratio in (1.5, 0.5, 1.1))).requires_grad_()
    loss = ppo().loss(Forward(logprobs_N=logprobs_N, entropy_N=tensor(1, 2, 6)), TARGETS, TOTALS)
    assert loss.total.item() == pytest.approx((-2.4 + 0.8 - 1.1) / 4)
    loss.total.backward()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.tolist() == pytest.approx([0, 0, -1.1 / 4])
    metrics = join_metrics([loss])
    assert metrics["loss/policy_avg"] == pytest.approx((-2.4 + 0.8 - 1.1) / 3)
    assert metrics["clip_ratio/region_mean"] == pytest.approx(2 / 3)
    assert metrics["policy/approxkl_avg"] == pytest.approx((log(1.5) ** 2 + log(0.5) ** 2 + log(1.1) ** 2) / 6)
    assert metrics["val/ratio"] == pytest.approx(3.1 / 3)
    assert metrics["entropy"] == 3


def test_the_values_loss_by_hand() -> None:
    """Values 1, 1 and 0.6, expected 0.5 before: two are clipped to 0.7. Half of the larger square: of 1 and 1.3 (to 2),
    of 1 and 0.7 (to 0), of 0.15 (to 0.75)."""
    values_N = tensor(1, 1, 0.6).requires_grad_()
    loss = ppo(vf_coef=0.5).value_loss(values_N, TARGETS, TOTALS)
    assert loss.total.item() == pytest.approx(0.5 * (1.69 + 1 + 0.0225) / 2 / 4)
    loss.total.backward()
    assert values_N.grad is not None
    # No gradient for what has moved too far towards its return.
    assert values_N.grad.tolist() == pytest.approx([0, 0.5 / 4, -0.5 * 0.15 / 4])
    metrics = join_metrics([loss])
    assert metrics["loss/value_avg"] == pytest.approx((1.69 + 1 + 0.0225) / 2 / 3)
    assert metrics["val/clipfrac_avg"] == pytest.approx(1 / 3)


# What must not change the value's loss


OPTIONS = pytest.mark.parametrize("options", [{}, {"cliprange_value": 0.05, "whiten_rewards": True, "gamma": 0.9}])


def value_loss(algorithm: PPO, step: object, samples: Sequence[Sample], totals: Totals) -> torch.Tensor:
    _, targets = packed(step, samples)  # type: ignore[arg-type]
    return algorithm.value_loss(step.values_BL[places_of(samples)], targets, totals).total  # type: ignore[attr-defined]


@OPTIONS
def test_neither_splitting_nor_order_nor_padding_changes_the_values_loss(options: dict[str, object]) -> None:
    step, algorithm = random_step(seed=7, num_groups=5), ppo(**options)
    credit, turned = algorithm.assign_credit(step.groups), algorithm.assign_credit(step.groups[::-1])
    whole = value_loss(algorithm, step, credit.samples, credit.totals)
    shuffled = [turned.samples[place] for place in (3, 14, 0, 7, 9, 1, 12, 5, 2, 4, 13, 6, 11, 8, 10)]
    parts = [value_loss(algorithm, step, shuffled[a:b], turned.totals) for a, b in ((0, 1), (1, 6), (6, 15))]
    gradients = [torch.autograd.grad(total, step.values_BL)[0] for total in (whole, torch.stack(parts).sum())]
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert gradients[0].abs().max() > 1e-4
    assert not gradients[0][~step.mask_BL].any()


@OPTIONS
def test_the_values_gradient_agrees_with_finite_differences(options: dict[str, object]) -> None:
    step, algorithm = random_step(seed=8, num_groups=3), ppo(**options)
    credit = algorithm.assign_credit(step.groups)

    def loss_of(values_BL: torch.Tensor) -> torch.Tensor:
        return value_loss(algorithm, replace(step, values_BL=values_BL), credit.samples, credit.totals)

    assert torch.autograd.gradcheck(loss_of, (step.values_BL,), eps=1e-6, atol=1e-7)


# What it asks for


def test_extra_forward_passes_are_asked_for_only_when_used() -> None:
    assert ppo().needs == Needs(reference_logprobs=True, values=True)
    assert ppo(kl_coef=0.0).needs == Needs(values=True)


@pytest.mark.parametrize(("epochs", "shares"), [(1, 1), (2, 1), (1, 2)])
def test_with_several_updates_the_samplers_logprobs_are_the_old_ones(epochs: int, shares: int) -> None:
    """In a single one the ratio is 1, and nothing has to be remembered."""
    completion = replace(scored([0.0, 0.0]), old_logprobs=None, policy_logprobs=(-0.5, -2.0))
    groups = [a_group([row], [replace(completion, token_ids=(row, row))]) for row in range(2)]
    credit = ppo(num_ppo_epochs=epochs, num_mini_batches=shares).assign_credit(groups)
    expected = None if epochs * shares == 1 else (-0.5, -2.0)
    for part in (credit, *credit.mini_batches):
        assert [sample.completion.old_logprobs for sample in part.samples] == [expected] * len(part.samples)


def test_the_registry_builds_it_and_it_is_an_actor_with_a_critic() -> None:
    algorithm = build_algorithm(PPOAlgorithmConfig(num_ppo_epochs=3), 64)
    assert isinstance(algorithm, PPO)
    assert isinstance(algorithm, ActorCritic)
    assert algorithm.num_iterations == 3
