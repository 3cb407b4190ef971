"""The policy that is sampled is the policy that is trained: their log-probs agree, update after update."""

from __future__ import annotations

from typing import Any

import pytest
from quantized_decoders import KINDS, Kind, in_int8, quantized
from sampler_examples import PROMPTS, SPEC, params_of, sampled, sampler_of
from tiny_decoders import LetterTokenizer, tiny_adapter, tiny_decoder, tiny_spec

from groat.algorithms.base import Needs
from groat.algorithms.grpo import GRPO
from groat.config.tree import GRPOAlgorithmConfig, TrainingConfig
from groat.learning.learner import Learner, LearnerPlan
from groat.model.recompute import Recompute
from groat.sampling.base import SamplingParams
from groat.types import Group, Reward

LIMIT = 1e-4


def learner_for(params: SamplingParams, decoder: Any, **config: Any) -> Learner:
    plan = LearnerPlan(microbatch_tokens=100, head_chunk_tokens=16, recompute=Recompute(every=1))
    return Learner(
        decoder,
        tiny_adapter(decoder.spec),
        plan,
        TrainingConfig(**({"learning_rate": 3e-2, "lr_scheduler_type": "constant"} | config)),
        temperature=params.temperature,
        num_updates=20,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.2, "top_p": 0.8, "top_k": 12, "min_p": 0.02, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_the_learner_finds_the_samplers_policy_logprobs(settings: dict[str, Any]):
    params, decoder = params_of(max_completion_length=30, **settings), tiny_decoder(SPEC)
    learner = learner_for(params, decoder)
    groups = sampled(sampler_of(decoder, max_concurrent=7), params, adapter=learner.adapter)
    for group in learner.score(groups, Needs(old_logprobs=True)):
        for completion in group.completions:
            assert completion.policy_logprobs == pytest.approx(completion.old_logprobs, abs=LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_they_agree_on_a_base_of_every_kind(kind: Kind):
    params, decoder = params_of(max_completion_length=30), quantized(kind)
    learner = learner_for(params, decoder)
    groups = sampled(sampler_of(decoder, max_concurrent=7), params, adapter=learner.adapter)
    for group in learner.score(groups, Needs(old_logprobs=True)):
        for completion in group.completions:
            assert completion.policy_logprobs == pytest.approx(completion.old_logprobs, abs=LIMIT)


@pytest.mark.parametrize("kind", ["int8", "nf4", "dynamic"])
def test_products_in_int8_are_the_same_on_both_sides(kind: Kind):
    """A row is rounded by itself and attends in the same order whatever it is batched with, so what the sampler draws
    one token at a time, the learner finds in its trees: up to the last sum over the vocabulary."""
    params = params_of(max_completion_length=30)
    spec = tiny_spec(hidden_size=64, intermediate_size=128, head_dim=16)  # whole blocks, or NF4 computes in f32
    decoder = in_int8(kind, spec)
    learner = learner_for(params, decoder)
    groups = sampled(sampler_of(decoder, max_concurrent=7), params, adapter=learner.adapter)
    for group in learner.score(groups, Needs(old_logprobs=True)):
        for completion in group.completions:
            assert completion.policy_logprobs == pytest.approx(completion.old_logprobs, abs=1e-5)


def test_over_twenty_updates_sampler_and_learner_agree_on_every_token():
    """The reward rises, so the adapter really moves, and the sampler follows it each time."""
    params, decoder = params_of(max_completion_length=12, num_generations=4, temperature=0.9), tiny_decoder(SPEC)
    learner, algorithm = learner_for(params, decoder), GRPO(GRPOAlgorithmConfig(), 12)
    sampler = sampler_of(decoder, max_concurrent=9, tokenizer=LetterTokenizer(stops=(0,)))
    differences: list[float] = []
    rewards: list[float] = []
    for step in range(20):
        seeds = [100 * step + index for index in range(len(PROMPTS))]
        groups = rewarded(sampled(sampler, params, adapter=learner.adapter, seeds=seeds))
        assert all(c.policy_version == step for group in groups for c in group.completions)
        credit = algorithm.assign_credit(groups)
        update = learner.update(credit, algorithm)
        assert len(update.logprob_differences) == sum(sample.num_tokens for sample in credit.samples) > 0
        differences.append(max(map(abs, update.logprob_differences)))
        rewards.append(credit.metrics["reward"])
    assert max(differences) < LIMIT
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 1


def rewarded(groups: list[Group]) -> list[Group]:
    """The share of letters from the second half of the alphabet."""

    def reward(token_ids: tuple[int, ...]) -> Reward:
        total = sum(13 <= token_id < 26 for token_id in token_ids) / len(token_ids)
        return Reward(total=total, parts={"late": total})

    return [group.with_rewards(tuple(reward(c.token_ids) for c in group.completions)) for group in groups]


def test_a_sampler_given_another_policy_is_noticed():
    """The same comparison fails for stale weights, so it can see them."""
    params, decoder = params_of(max_completion_length=30), tiny_decoder(SPEC)
    learner, stale = learner_for(params, decoder), tiny_adapter(SPEC, seed=1, size=0.3)
    groups = rewarded(sampled(sampler_of(decoder), params, adapter=stale))
    algorithm = GRPO(GRPOAlgorithmConfig(), 30)
    update = learner.update(algorithm.assign_credit(groups), algorithm)
    assert max(map(abs, update.logprob_differences)) > 100 * LIMIT
