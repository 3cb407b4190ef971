"""What every Sampler promises, whoever makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tiny_decoders import LetterTokenizer, prompt_of, tiny_adapter, tiny_decoder

from groat.model.lora import Adapter
from groat.sampling.base import Sampler, SamplingParams
from groat.sampling.native.sampler import NativeSampler
from groat.testing import ScriptedSampler
from groat.types import FinishReason, Group

PROMPTS = [prompt_of(ids, name=str(index)) for index, ids in enumerate([(1, 2, 3), (4,), (1, 2, 3), (1, 2, 3, 5, 6)])]
SEEDS = [11, 12, 13, 14]
PARAMS = SamplingParams(num_generations=3, max_completion_length=8)
STOP_TOKEN = 0


def native() -> Sampler:
    tokenizer = LetterTokenizer(stops=(STOP_TOKEN,))
    return NativeSampler(tiny_decoder(), tokenizer, max_concurrent=5)  # type: ignore[arg-type]


def scripted() -> Sampler:
    """Answers of 1 to 9 letters: the longest, with its stop token, do not fit into 8 tokens."""
    return ScriptedSampler(
        lambda prompt, seed, index: "abcdefghi"[: 1 + (seed + 3 * index) % 9], stop_token_id=STOP_TOKEN
    )


@pytest.fixture(params=[native, scripted])
def sampler(request: pytest.FixtureRequest) -> Sampler:
    make: Callable[[], Sampler] = request.param
    return make()


def sample(sampler: Sampler, params: SamplingParams = PARAMS, adapter: Adapter | None = None) -> list[Group]:
    with sampler.awake():
        return sampler.sample(PROMPTS, adapter, params, SEEDS)


def test_there_is_one_group_per_prompt_in_order(sampler: Sampler):
    groups = sample(sampler)
    assert [group.prompt for group in groups] == PROMPTS
    assert [len(group.completions) for group in groups] == [3] * 4
    assert all(group.rewards == () for group in groups)


def test_every_token_has_both_logprobs(sampler: Sampler):
    for group in sample(sampler):
        for completion in group.completions:
            assert 1 <= len(completion.token_ids) <= 8
            assert len(completion.sampler_logprobs) == len(completion.policy_logprobs) == len(completion.token_ids)
            assert all(logprob <= 0 for logprob in completion.sampler_logprobs + completion.policy_logprobs)
            assert completion.old_logprobs is None
            assert completion.reference_logprobs is None


def test_a_completion_that_is_cut_off_has_the_longest_length(sampler: Sampler):
    for group in sample(sampler):
        for completion in group.completions:
            if completion.finish_reason is FinishReason.LENGTH:
                assert len(completion.token_ids) == 8


def test_the_group_has_the_size_that_is_asked_for(sampler: Sampler):
    params = SamplingParams(num_generations=5, max_completion_length=8)
    assert [len(group.completions) for group in sample(sampler, params)] == [5] * 4


def test_the_same_seeds_give_the_same_completions(sampler: Sampler):
    assert sample(sampler) == sample(sampler)


def test_completions_carry_the_version_of_their_policy(sampler: Sampler):
    for version in (0, 7):
        groups = sample(sampler, adapter=replace(tiny_adapter(), version=version))
        assert {completion.policy_version for group in groups for completion in group.completions} == {version}


def test_a_sampler_wakes_again_after_sleeping_and_after_an_error(sampler: Sampler):
    first = sample(sampler)
    with pytest.raises(ZeroDivisionError), sampler.awake():
        raise ZeroDivisionError
    assert sample(sampler) == first


def test_progress_adds_up(sampler: Sampler):
    told: list[int] = []
    with sampler.awake():
        groups = sampler.sample(PROMPTS, None, PARAMS, SEEDS, told.append)
    num_completions = sum(len(group.completions) for group in groups)
    assert sum(told) == num_completions * PARAMS.max_completion_length


def test_a_prompt_may_allow_fewer_tokens_than_others(sampler: Sampler):
    """Cut where it ends, each completion is the one that it was without the limit."""
    prompts = [replace(PROMPTS[0], most_tokens=2), PROMPTS[1], replace(PROMPTS[2], most_tokens=50), PROMPTS[3]]
    free = sample(sampler)
    with sampler.awake():
        bounded = sampler.sample(prompts, None, PARAMS, SEEDS)
    for index, longest in enumerate((2, 8, 8, 8)):
        for one, other in zip(bounded[index].completions, free[index].completions, strict=True):
            assert one.token_ids == other.token_ids[:longest]
    is_longer = [len(one.token_ids) > 2 for one in free[0].completions]
    assert any(is_longer)
    assert [one.finish_reason is FinishReason.LENGTH for one in bounded[0].completions] == is_longer
