"""How rewards become advantages, and what a step reports about itself."""

from __future__ import annotations

from math import sqrt

import pytest
from grpo_examples import a_completion, a_group, a_prompt, grpo

from groat.algorithms.base import Needs
from groat.algorithms.grpo import GRPO
from groat.algorithms.registry import build_algorithm
from groat.config.tree import GRPOAlgorithmConfig
from groat.types import Group, Reward

ONE_OF_FOUR = [1.0, 0.0, 0.0, 0.0]
TWO_OF_FOUR = [1.0, 1.0, 0.0, 0.0]


def advantages(*rewards: list[float], **config: object) -> list[float]:
    credit = grpo(**config).assign_credit([a_group(group) for group in rewards])
    return [sample.advantages[0] for sample in credit.samples]


def test_group_scaling_divides_by_the_groups_own_deviation() -> None:
    """Mean 1/4; squares 9/16 + 3/16 = 3/4, over n - 1 = 3: deviation 1/2."""
    assert advantages(ONE_OF_FOUR) == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3)


def test_batch_scaling_divides_by_the_deviation_of_all_rewards() -> None:
    """8 rewards, mean 3/8; squares 3 * 25/64 + 5 * 9/64 = 15/8, over 7. Means stay those of the groups."""
    divisor = sqrt(15 / 56) + 1e-4
    expected = [0.75, -0.25, -0.25, -0.25, 0.5, 0.5, -0.5, -0.5]
    assert advantages(ONE_OF_FOUR, TWO_OF_FOUR, scale_rewards="batch") == pytest.approx(
        [value / divisor for value in expected]
    )


def test_no_scaling_only_subtracts_the_mean() -> None:
    assert advantages(ONE_OF_FOUR, scale_rewards="none") == [0.75, -0.25, -0.25, -0.25]


def test_every_token_of_a_completion_gets_the_same_advantage() -> None:
    group = a_group([1.0, 0.0], [a_completion(3), a_completion(1)])
    credit = grpo(scale_rewards="none").assign_credit([group])
    assert [sample.advantages for sample in credit.samples] == [(0.5, 0.5, 0.5), (-0.5,)]


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_group_with_equal_rewards_trains_nothing(scale_rewards: str) -> None:
    """Three times 0.1 has a mean of 0.10000000000000002 and a deviation of 1e-17: rounding must not train."""
    algorithm = grpo(scale_rewards=scale_rewards)
    credit = algorithm.assign_credit([a_group([0.1] * 3), a_group(ONE_OF_FOUR)])
    assert len(credit.samples) == 4
    assert credit.metrics["skipped_groups"] == 1
    assert credit.metrics["frac_reward_zero_std"] == 0.5


def test_what_is_left_out_still_counts_in_the_totals() -> None:
    credit = grpo().assign_credit([a_group([0.1] * 3), a_group(ONE_OF_FOUR)])
    assert (credit.totals.sequences, credit.totals.tokens) == (7, 14)


def test_a_completion_that_earned_exactly_the_mean_is_left_out() -> None:
    assert advantages([1.0, 0.5, 0.0], scale_rewards="none") == [0.5, -0.5]


def test_with_a_kl_term_every_completion_trains() -> None:
    credit = grpo(beta=0.1).assign_credit([a_group([0.1] * 3)])
    assert [sample.advantages for sample in credit.samples] == [(0.0, 0.0)] * 3
    assert credit.metrics["skipped_groups"] == 0


def test_truncated_completions_are_masked_only_on_request() -> None:
    group = a_group([1.0, 0.0], [a_completion(5, truncated=True), a_completion(2)])
    kept = grpo().assign_credit([group])
    assert (len(kept.samples), kept.totals.sequences, kept.totals.tokens) == (2, 2, 7)
    for beta in (0.0, 0.1):
        masked = grpo(mask_truncated_completions=True, beta=beta).assign_credit([group])
        assert (len(masked.samples), masked.totals.sequences, masked.totals.tokens) == (1, 2, 2)


def test_samples_keep_the_order_of_their_groups() -> None:
    groups = [a_group([1.0, 0.0], [a_completion(1, row=row), a_completion(1, row=row + 1)]) for row in (0, 2, 4)]
    credit = grpo().assign_credit(groups)
    assert [sample.completion.token_ids[0] for sample in credit.samples] == [0, 1, 2, 3, 4, 5]


def test_reward_metrics_by_hand() -> None:
    """Totals 1, 0, 2, 1: mean 1, squares 0 + 1 + 1 + 0 = 2 over 3. `b` applied to two completions only."""
    parts = [{"a": 1.0, "b": None}, {"a": 0.0, "b": None}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0}]
    rewards = [Reward(total=total, parts=part) for total, part in zip((1.0, 0.0, 2.0, 1.0), parts, strict=True)]
    group = Group(prompt=a_prompt(), completions=(a_completion(),) * 4, rewards=tuple(rewards))
    metrics = grpo().assign_credit([group]).metrics
    assert metrics["reward"] == 1
    assert metrics["reward_std"] == pytest.approx(sqrt(2 / 3))
    assert metrics["rewards/a/mean"] == 0.75
    assert metrics["rewards/a/std"] == pytest.approx(0.5)
    assert metrics["rewards/b/mean"] == 0.5
    assert metrics["rewards/b/std"] == pytest.approx(sqrt(0.5))


def test_a_reward_function_that_never_applied_has_no_metrics() -> None:
    rewards = tuple(Reward(total=total, parts={"a": total, "b": None}) for total in (1.0, 0.0))
    group = Group(prompt=a_prompt(), completions=(a_completion(),) * 2, rewards=rewards)
    metrics = grpo().assign_credit([group]).metrics
    assert "rewards/a/mean" in metrics
    assert "rewards/b/mean" not in metrics


def test_length_metrics_by_hand() -> None:
    lengths = [a_completion(2), a_completion(4), a_completion(9, truncated=True), a_completion(9, truncated=True)]
    metrics = grpo().assign_credit([a_group(TWO_OF_FOUR, lengths)]).metrics
    assert metrics["completions/mean_length"] == 6
    assert metrics["completions/min_length"] == 2
    assert metrics["completions/max_length"] == 9
    assert metrics["completions/mean_terminated_length"] == 3
    assert metrics["completions/min_terminated_length"] == 2
    assert metrics["completions/max_terminated_length"] == 4
    assert metrics["completions/clipped_ratio"] == 0.5


def test_terminated_lengths_are_zero_when_every_completion_was_truncated() -> None:
    metrics = grpo().assign_credit([a_group([1.0, 0.0], [a_completion(9, truncated=True)] * 2)]).metrics
    assert metrics["completions/mean_terminated_length"] == 0
    assert metrics["completions/clipped_ratio"] == 1


def test_extra_forward_passes_are_asked_for_only_when_used() -> None:
    assert grpo().needs == Needs(reference_logprobs=False, old_logprobs=False)
    assert grpo(beta=0.1).needs == Needs(reference_logprobs=True, old_logprobs=False)
    assert grpo(num_iterations=2).needs == Needs(reference_logprobs=False, old_logprobs=True)


def test_registry_builds_grpo_from_its_config() -> None:
    algorithm = build_algorithm(GRPOAlgorithmConfig(num_iterations=3), max_completion_length=64)
    assert isinstance(algorithm, GRPO)
    assert algorithm.num_iterations == 3
    assert algorithm.max_completion_length == 64
