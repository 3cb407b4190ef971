"""Micro-batches: what is counted, what is shared, and where every token ends up."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from tiny_decoders import sample_of

from groat.batching import MicroBatch, pack
from groat.trees import Node
from groat.types import Sample

PROMPT = (1, 2, 3, 4, 5)


def sizes(microbatches: tuple[MicroBatch, ...]) -> list[int]:
    return [len(microbatch.token_ids_T) for microbatch in microbatches]


def test_a_prompt_is_counted_once_and_the_last_token_not_at_all():
    """5 prompt tokens, then 3 - 1 and 2 - 1 completion tokens: the last one of each predicts nothing."""
    (microbatch,) = pack([sample_of(PROMPT, (7, 8, 9)), sample_of(PROMPT, (6, 9))], 100)
    assert microbatch.token_ids_T.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert microbatch.positions_T.tolist() == [0, 1, 2, 3, 4, 5, 5, 6]
    assert microbatch.nodes == (Node(0, 5, 8, True), Node(5, 6, 6, False), Node(6, 8, 8, False))


def test_every_completion_token_is_predicted_by_the_row_before_it():
    """Sorted by their tokens, (6, 9) comes before (7, 8, 9). Row 4 ends the prompt, and predicts both beginnings."""
    (microbatch,) = pack([sample_of(PROMPT, (7, 8, 9)), sample_of(PROMPT, (6, 9))], 100)
    assert microbatch.samples == (1, 0)
    assert microbatch.targets.token_ids_N.tolist() == [6, 9, 7, 8, 9]
    assert microbatch.targets.sequence_N.tolist() == [0, 0, 1, 1, 1]
    assert microbatch.targets.lengths_S.tolist() == [2, 3]
    assert microbatch.predictor_N.tolist() == [4, 5, 4, 6, 7]


def test_one_token_prompts_and_one_token_completions_pack():
    (microbatch,) = pack([sample_of((1,), (2,))], 100)
    assert microbatch.token_ids_T.tolist() == [1]
    assert microbatch.predictor_N.tolist() == [0]
    assert microbatch.targets.token_ids_N.tolist() == [2]


def test_no_samples_make_no_microbatches():
    assert pack([], 100) == ()


def test_a_sample_longer_than_the_budget_goes_alone():
    long = sample_of((4,) * 20, (5, 6))
    microbatches = pack([sample_of((3,) * 4, (7, 8)), long, sample_of((9,) * 4, (7, 8))], 10)
    assert [microbatch.samples for microbatch in microbatches] == [(0,), (1,), (2,)]
    assert sizes(microbatches) == [5, 21, 5]


def test_samples_fill_a_microbatch_up_to_its_budget():
    """Each has 4 + 2 - 1 = 5 tokens, and nothing is shared: 2 fit into 10, 1 into 9."""
    samples = [sample_of((first,) * 4, (7, 8)) for first in range(1, 6)]
    assert sizes(pack(samples, 10)) == [10, 10, 5]
    assert sizes(pack(samples, 9)) == [5] * 5


def test_a_prompt_split_over_two_microbatches_is_in_both():
    """A prompt of 8 tokens with completions of 5 - 1 = 4: two make 16 tokens.

    They need a budget of 19: of a shared beginning, 3 tokens are counted for every sample, because another sample may
    branch off just before them.
    """
    samples = [sample_of(range(8), (first, 1, 2, 3, 4)) for first in range(10, 14)]
    assert sizes(pack(samples, 19)) == [16, 16]
    assert sizes(pack(samples, 18)) == [12] * 4


LONG = tuple(i % 7 for i in range(100))


def long_samples(*firsts: int, prompt: tuple[int, ...] = LONG) -> list[Sample]:
    """A prompt of 100 tokens with completions of 50, no two of which begin alike."""
    return [sample_of(prompt, (first,) * 50) for first in firsts]


def test_a_long_prompt_is_computed_once_for_all_microbatches():
    """Its last token predicts, and stays with each completion's other 49: two go beside the prefix of 99. Otherwise
    each micro-batch would be 100 + 49 tokens."""
    microbatches = pack(long_samples(10, 11, 12, 13), 199)
    assert [one.prefix_ids for one in microbatches] == [LONG[:-1]] * 2
    assert sizes(microbatches) == [100, 100]
    assert [one.num_tokens for one in microbatches] == [199, 199]
    for one in microbatches:
        assert one.token_ids_T[0] == LONG[-1]
        assert one.positions_T.tolist() == 2 * list(range(99, 149))
        assert one.predictor_N.tolist() == list(range(100))


def test_what_fits_into_one_microbatch_has_no_prefix():
    (microbatch,) = pack(long_samples(10, 11, 12, 13), 400)
    assert microbatch.prefix_ids == ()
    assert sizes((microbatch,)) == [100 + 4 * 49]


def test_a_prefix_that_saves_less_than_a_pass_takes_is_none():
    """Two micro-batches of 63 tokens of prompt and 50 of two completions each: a prefix would be too short."""
    microbatches = pack(long_samples(10, 11, 12, 13, prompt=LONG[:64]), 170)
    assert [one.prefix_ids for one in microbatches] == [(), ()]


def test_every_prompt_has_a_prefix_of_its_own_where_that_is_less_work():
    """Two prompts that share 10 tokens."""
    other = (*LONG[:10], *(9 for _ in range(90)))
    microbatches = pack([*long_samples(10, 11, 12, 13), *long_samples(10, 11, 12, 13, prompt=other)], 199)
    assert [one.prefix_ids for one in microbatches] == [LONG[:-1]] * 2 + [other[:-1]] * 2


def test_all_prompts_have_one_prefix_where_that_is_less_work():
    """Worked examples of 100 tokens, then short questions with a completion each."""
    samples = [sample_of((*LONG, first, first), (first,) * 20) for first in range(10, 30)]
    microbatches = pack(samples, 250)
    assert {one.prefix_ids for one in microbatches} == {LONG}
    assert sum(sizes(microbatches)) == 20 * (2 + 19)


def test_beginnings_too_short_to_share_are_counted_for_every_sample():
    """All begin with token 1, as with a BOS token. One shared token makes no node, so each sample has all of its 5."""
    samples = [sample_of((1, first, 5, 6), (7, 8)) for first in range(20, 26)]
    assert sizes(pack(samples, 21)) == [20, 10]


@pytest.mark.parametrize("seed", range(100))
def test_no_microbatch_exceeds_the_budget_unless_it_is_one_sample(seed: int):
    source = random.Random(seed)
    samples = random_samples(source)
    budget = source.randint(1, 60)
    for microbatch in pack(samples, budget):
        assert len(microbatch.token_ids_T) <= budget or len(microbatch.samples) == 1


@pytest.mark.parametrize("seed", range(30))
def test_every_sample_lies_whole_in_one_microbatch(seed: int):
    source = random.Random(seed)
    samples = random_samples(source)
    microbatches = pack(samples, source.randint(1, 60))
    assert sorted(index for microbatch in microbatches for index in microbatch.samples) == list(range(len(samples)))
    for microbatch in microbatches:
        for place, index in enumerate(microbatch.samples):
            check_is_there(microbatch, place, samples[index])


def random_long_samples(source: random.Random) -> list[Sample]:
    """Of prompts that share beginnings long enough for a prefix."""
    shared = tuple(source.choices((1, 2), k=80))
    return [
        replace(sample, prompt=replace(sample.prompt, token_ids=shared + sample.prompt.token_ids))
        for sample in random_samples(source)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_every_sample_is_whole_with_a_prefix_too(seed: int):
    source = random.Random(seed)
    samples, budget = random_long_samples(source), source.randint(100, 160)
    microbatches = pack(samples, budget)
    assert sorted(index for microbatch in microbatches for index in microbatch.samples) == list(range(len(samples)))
    for microbatch in microbatches:
        assert microbatch.num_tokens <= budget or len(microbatch.samples) == 1
        for place, index in enumerate(microbatch.samples):
            assert samples[index].prompt.token_ids[: len(microbatch.prefix_ids)] == microbatch.prefix_ids
            check_is_there(microbatch, place, samples[index])


def check_is_there(microbatch: MicroBatch, place: int, sample: Sample) -> None:
    """All of a sample's numbers, and its tokens shifted by one."""
    is_its_own = microbatch.targets.sequence_N == place
    completion, targets = sample.completion, microbatch.targets
    assert targets.token_ids_N[is_its_own].tolist() == list(completion.token_ids)
    before = (*sample.prompt.token_ids, *completion.token_ids)[len(sample.prompt.token_ids) - 1 : -1]
    rows = microbatch.predictor_N[is_its_own]
    assert microbatch.token_ids_T[rows].tolist() == list(before)
    first = len(sample.prompt.token_ids) - 1
    assert microbatch.positions_T[rows].tolist() == list(range(first, first + len(before)))
    assert targets.old_logprobs_N is not None
    for column, values in (
        (targets.advantages_N, sample.advantages),
        (targets.sampler_logprobs_N, completion.sampler_logprobs),
        (targets.old_logprobs_N, completion.old_logprobs),
        (microbatch.policy_logprobs_N, completion.policy_logprobs),
    ):
        assert torch.equal(column[is_its_own], torch.tensor(values))
    assert targets.reference_logprobs_N is None


def random_samples(source: random.Random) -> list[Sample]:
    prompts = [tuple(source.choices((1, 2), k=source.randint(1, 10))) for _ in range(4)]
    samples: list[Sample] = []
    for _ in range(source.randint(1, 16)):
        sample = sample_of(source.choice(prompts), source.choices((1, 2), k=source.randint(1, 10)))
        count = sample.num_tokens
        sampler, policy, old = (tuple(source.random() for _ in range(count)) for _ in range(3))
        completion = replace(sample.completion, sampler_logprobs=sampler, policy_logprobs=policy, old_logprobs=old)
        advantages = tuple(source.random() for _ in range(count))
        samples.append(replace(sample, completion=completion, advantages=advantages))
    return samples


def test_samples_scored_in_part_are_refused():
    scored = sample_of((1, 2), (3,))
    scored = replace(scored, completion=replace(scored.completion, old_logprobs=(-1.0,)))
    with pytest.raises(AssertionError, match="some completions were scored"):
        pack([scored, sample_of((1, 2), (4,))], 100)


def test_samples_with_a_joint_loss_are_never_separated():
    """Each takes 4 + 2 - 1 = 5 tokens; sorted by themselves, 0 and 2 would come first."""
    samples = [sample_of((prompt,) * 4, (7, 8)) for prompt in (3, 5, 4, 6)]
    bundled = [replace(sample, bundle=number) for sample, number in zip(samples, (10, 10, 20, 20), strict=True)]
    microbatches = pack(bundled, 10)
    assert [microbatch.samples for microbatch in microbatches] == [(0, 1), (2, 3)]
    assert [microbatch.num_bundles for microbatch in microbatches] == [1, 1]
    assert [microbatch.samples for microbatch in pack(bundled, 1)] == [(0, 1), (2, 3)]
    assert [microbatch.num_bundles for microbatch in pack(samples, 100)] == [4]
    (whole,) = pack(bundled, 100)
    assert whole.num_bundles == 2
    assert whole.targets.bundle_S is not None
    assert whole.targets.bundle_S.tolist() == [0, 0, 1, 1]
    assert pack(samples, 100)[0].targets.bundle_S is None


@pytest.mark.parametrize("microbatch_tokens", [1, 25, 60, 1000])
def test_bundles_keep_to_the_budget_too(microbatch_tokens: int):
    generator = random.Random(0)
    samples = [
        replace(
            sample_of((number % 3,) * 6, tuple(generator.choices(range(3), k=generator.randint(1, 9)))),
            bundle=number // 2,
        )
        for number in range(40)
    ]
    microbatches = pack(samples, microbatch_tokens)
    assert sorted(index for one in microbatches for index in one.samples) == list(range(40))
    for one in microbatches:
        assert len(one.token_ids_T) <= microbatch_tokens or one.num_bundles == 1
        assert {index // 2 for index in one.samples} == {
            index // 2 for index in one.samples if index ^ 1 in one.samples
        }
