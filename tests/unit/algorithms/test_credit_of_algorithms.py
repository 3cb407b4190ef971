"""How the rewards of a step become advantages and pairs in RLOO, REINFORCE++, Online DPO and GRPO's later forms."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
from grpo_examples import a_completion, a_group, a_prompt, grpo, online_dpo, reinforce, rloo

from groat.algorithms.advantages import leave_one_out, normalized_then_summed
from groat.algorithms.base import Algorithm, Needs
from groat.algorithms.online_dpo import OnlineDPO
from groat.algorithms.registry import build_algorithm
from groat.algorithms.reinforce import Reinforce
from groat.algorithms.rloo import RLOO
from groat.config.algorithms import OnlineDPOAlgorithmConfig, ReinforceAlgorithmConfig, RLOOAlgorithmConfig
from groat.types import Completion, Group, Reward


def advantages(algorithm: Algorithm, *groups: Group) -> list[tuple[float, ...]]:
    return [sample.advantages for sample in algorithm.assign_credit(groups).samples]


def scored(completion: Completion, *, old: tuple[float, ...], reference: tuple[float, ...]) -> Completion:
    return replace(completion, old_logprobs=old, reference_logprobs=reference)


def with_parts(*parts: dict[str, float | None]) -> Group:
    rewards = tuple(Reward(total=sum(value or 0 for value in part.values()), parts=part) for part in parts)
    return Group(prompt=a_prompt(), completions=(a_completion(1),) * len(parts), rewards=rewards)


# RLOO


def test_an_answer_is_compared_with_the_mean_of_the_others() -> None:
    """1 - 0, then 0 - 1/3 three times."""
    assert leave_one_out([1.0, 0.0, 0.0, 0.0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert [one[0] for one in advantages(rloo(beta=0.0), a_group([3.0, 1.0]))] == [2, -2]


def test_kl_is_taken_off_the_reward() -> None:
    """a has risen by 0.5 + 0.25, b has fallen by 0.5: returns 1 - 0.2 * 0.75 and 0 + 0.2 * 0.5."""
    a = scored(a_completion(2), old=(-1.0, -1.0), reference=(-1.5, -1.25))
    b = scored(a_completion(1), old=(-1.0,), reference=(-0.5,))
    algorithm = rloo(beta=0.2)
    credit = algorithm.assign_credit([a_group([1.0, 0.0], [a, b])])
    assert [sample.advantages for sample in credit.samples] == [pytest.approx([0.75] * 2), pytest.approx([-0.75])]
    assert credit.metrics["kl"] == pytest.approx(0.25 / 3)
    assert credit.metrics["reward"] == 0.5


def test_kl_uses_the_samplers_logprobs_where_the_learner_has_none() -> None:
    """policy_logprobs are -1 in these examples: 0.5 above the reference policy's."""
    a, b = (replace(a_completion(1), reference_logprobs=(value,)) for value in (-1.5, -1.0))
    assert [one[0] for one in advantages(rloo(beta=1.0), a_group([1.0, 0.0], [a, b]))] == pytest.approx([0.5, -0.5])


def test_rewards_are_clipped_before_kl() -> None:
    assert [one[0] for one in advantages(rloo(beta=0.0, reward_clip_range=(-1, 2)), a_group([5.0, -9.0]))] == [3, -3]


def test_normalized_advantages_have_deviation_one() -> None:
    """Advantages 2, -2, 1, -1: squares 10 over 3."""
    groups = (a_group([3.0, 1.0]), a_group([1.0, 0.0]))
    found = [one[0] for one in advantages(rloo(beta=0.0, normalize_advantages=True), *groups)]
    assert found == pytest.approx([value / (sqrt(10 / 3) + 1e-4) for value in (2, -2, 1, -1)])


def test_rloo_leaves_out_what_has_no_advantage_and_counts_it() -> None:
    credit = rloo(beta=0.0).assign_credit([a_group([0.1] * 3), a_group([1.0, 0.5, 0.0])])
    assert [sample.advantages for sample in credit.samples] == [(0.75, 0.75), (-0.75, -0.75)]
    assert credit.totals.sequences == 6


# REINFORCE++


def test_advantages_are_normalized_over_the_tokens_of_the_step() -> None:
    """Less group means: 0.5 for 3 tokens, -0.5 for 1. Mean 0.25, deviation sqrt(3) / 4."""
    group = a_group([1.0, 0.0], [a_completion(3), a_completion(1)])
    found = advantages(reinforce(), group)
    assert found == [pytest.approx([1 / sqrt(3)] * 3), pytest.approx([-sqrt(3)])]


def test_without_a_baseline_groups_are_compared_with_one_another() -> None:
    """Rewards 1, 1 and 0, 0 of one token each: mean 1/2, deviation 1/2. With the group's mean nothing is left."""
    groups = [a_group([value] * 2, [a_completion(1), a_completion(1)]) for value in (1.0, 0.0)]
    found = [one[0] for one in advantages(reinforce(baseline="none"), *groups)]
    assert found == pytest.approx([1, 1, -1, -1])
    assert advantages(reinforce(), *groups) == []


def test_kl_to_the_end_is_taken_off_every_token() -> None:
    """Log-ratios 1 and 2, beta 0.1: returns 1 - 0.3 and 1 - 0.2, and 0 for b: mean 0.5."""
    a = scored(a_completion(2), old=(-1.0, -1.0), reference=(-2.0, -3.0))
    b = scored(a_completion(1), old=(-1.0,), reference=(-1.0,))
    deviation = sqrt((0.2**2 + 0.3**2 + 0.5**2) / 3)
    found = advantages(reinforce(baseline="none", beta=0.1), a_group([1.0, 0.0], [a, b]))
    assert found == [pytest.approx([0.2 / deviation, 0.3 / deviation]), pytest.approx([-0.5 / deviation])]


def test_truncated_completions_take_no_part_in_the_normalization_when_masked() -> None:
    completions = [a_completion(5, truncated=True), a_completion(1), a_completion(1)]
    found = advantages(reinforce(mask_truncated_completions=True), a_group([9.0, 1.0, 0.0], completions))
    assert found == [pytest.approx([1.0]), pytest.approx([-1.0])]


# Online DPO


def test_the_best_answer_is_preferred_to_the_worst() -> None:
    completions = [a_completion(1, row=row) for row in range(4)]
    credit = online_dpo().assign_credit([a_group([0.2, 0.9, 0.1, 0.9], completions)])
    assert [(sample.completion.token_ids[0], sample.advantages, sample.bundle) for sample in credit.samples] == [
        (1, (1.0,), 0),
        (2, (-1.0,), 0),
    ]


def test_equal_answers_are_no_pair_but_count_as_one() -> None:
    credit = online_dpo().assign_credit([a_group([0.1, 0.1]), a_group([0.0, 1.0])])
    assert [sample.bundle for sample in credit.samples] == [1, 1]
    assert credit.totals.groups == 2
    assert credit.metrics["skipped_groups"] == 1


def test_an_answer_that_was_cut_off_pays_the_penalty() -> None:
    completions = [a_completion(1, row=0, truncated=True), a_completion(1, row=1)]
    for penalty, chosen in ((None, 0), (0.2, 0), (0.4, 1)):
        credit = online_dpo(missing_eos_penalty=penalty).assign_credit([a_group([0.8, 0.5], completions)])
        assert credit.samples[0].completion.token_ids == (chosen,)


# GRPO's later forms


def test_several_rewards_are_normalized_each_by_itself() -> None:
    """`big` is 10, 0, 0: centred 20/3, -10/3, -10/3 over 10 / sqrt(3). `small` is 0, 0.1, 0: the same, turned round."""
    group = with_parts({"big": 10.0, "small": 0.0}, {"big": 0.0, "small": 0.1}, {"big": 0.0, "small": 0.0})
    big, small = 10 / sqrt(3) + 1e-4, 0.1 / sqrt(3) + 1e-4
    sums = [20 / 3 / big - 0.1 / 3 / small, -10 / 3 / big + 0.2 / 3 / small, -10 / 3 / big - 0.1 / 3 / small]
    step_std = sqrt(sum(value**2 for value in sums) / 2)
    [found] = normalized_then_summed([group], {})
    assert found == pytest.approx([value / (step_std + 1e-4) for value in sums])
    [weighted] = normalized_then_summed([group], {"small": 0.0})
    assert weighted[0] > 0
    assert weighted[1] == weighted[2] < 0


def test_a_function_that_does_not_apply_says_nothing() -> None:
    group = with_parts({"a": 1.0, "b": None}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.0})
    [found] = normalized_then_summed([group], {})
    assert found[0] == 0
    assert found[1] == -found[2] > 0.9


def test_only_tokens_with_high_entropy_are_trained() -> None:
    """Of entropies 0.1 to 0.5 the upper 40% quantile begins at 0.34: two tokens; all five count in the total."""
    a = replace(a_completion(3), entropies=(0.1, 0.5, 0.2))
    b = replace(a_completion(2), entropies=(0.4, 0.3))
    algorithm = grpo(top_entropy_quantile=0.4, scale_rewards="none")
    credit = algorithm.assign_credit([a_group([1.0, 0.0], [a, b])])
    assert [sample.advantages for sample in credit.samples] == [(0.0, 0.5, 0.0), (-0.5, 0.0)]
    assert credit.totals.tokens == 5
    assert algorithm.needs == Needs(entropies=True)


def test_tokens_of_masked_completions_do_not_count_in_the_quantile() -> None:
    a = replace(a_completion(2, truncated=True), entropies=(9.0, 9.0))
    b = replace(a_completion(2), entropies=(0.1, 0.2))
    algorithm = grpo(top_entropy_quantile=0.5, mask_truncated_completions=True, scale_rewards="none")
    assert advantages(algorithm, a_group([1.0, 0.0], [a, b])) == [(0.0, -0.5)]


def test_with_an_entropy_term_every_completion_trains() -> None:
    assert len(advantages(grpo(entropy_coef=0.1), a_group([0.1] * 3))) == 3


# All


def test_extra_forward_passes_are_asked_for_only_when_used() -> None:
    assert rloo(beta=0.0).needs == reinforce().needs == Needs()
    assert rloo().needs == reinforce(beta=0.1).needs == online_dpo().needs == Needs(reference_logprobs=True)
    assert rloo(beta=0.0, num_iterations=2).needs == reinforce(num_iterations=2).needs == Needs(old_logprobs=True)


def test_registry_builds_each_algorithm_from_its_config() -> None:
    found = [
        build_algorithm(config, 64)
        for config in (RLOOAlgorithmConfig(num_iterations=3), ReinforceAlgorithmConfig(), OnlineDPOAlgorithmConfig())
    ]
    assert [type(algorithm) for algorithm in found] == [RLOO, Reinforce, OnlineDPO]
    assert [algorithm.num_iterations for algorithm in found] == [3, 1, 1]
