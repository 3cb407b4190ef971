"""How many tokens a micro-batch and the KV cache can hold, against `pack` and by hand."""

from dataclasses import replace

import pytest
from tiny_decoders import sample_of

from groat.batching import pack
from groat.config.tree import EvaluationConfig, RunConfig, SamplingConfig, TrainingConfig
from groat.memory.workload import Workload
from groat.types import Sample

CONFIG = RunConfig(
    sampling=SamplingConfig(num_generations=4, max_completion_length=10),
    training=TrainingConfig(generation_batch_size=8),
    evaluation=EvaluationConfig(num_problems=0),
)
WORK = Workload.of(CONFIG, prompt=20, shared_prompt=6)


def full_length_samples(work: Workload) -> list[Sample]:
    """A whole step in which everything is as long as it can be."""
    samples: list[Sample] = []
    for group in range(work.num_prompts):
        own = tuple(100 + 10 * group + i for i in range(work.prompt - work.shared_prompt))
        prompt = (*range(work.shared_prompt), *own)
        for number in range(work.num_generations):
            samples.append(sample_of(prompt, (300 + 20 * number + i for i in range(work.completion))))
    return samples


def test_a_whole_step_by_hand() -> None:
    """20 + 9 tokens, then 3 x 12 (9, and 3 that might not be shared), 14 + 12, 3 x 12: 127."""
    assert WORK.filled(10_000) == 127
    assert WORK.longest == 30
    assert WORK.filled(1) == 29, "the longest sequence always goes in"
    assert WORK.filled(29 + 12 + 11) == 41


@pytest.mark.parametrize("tokens", [1, 40, 41, 60, 90, 200])
def test_no_microbatch_of_a_full_step_is_larger_than_what_is_planned(tokens: int) -> None:
    microbatches = pack(full_length_samples(WORK), WORK.filled(tokens))
    largest = max(len(one.token_ids_T) for one in microbatches)
    assert largest <= WORK.filled(tokens)
    assert largest >= WORK.filled(tokens) - 3 * 8, "nor much smaller: up to 3 tokens a sample may not be shared"


def test_two_groups_go_each_into_a_microbatch_of_its_own_where_both_do_not_go_into_one() -> None:
    """Room for 103 would hold one group and a part of the other, which computes the second prompt twice."""
    assert WORK.filled(110) == 103
    assert [len(one.token_ids_T) for one in pack(full_length_samples(WORK), WORK.filled(110))] == [20 + 4 * 9] * 2


def test_prompts_of_the_greedy_evaluation_are_counted() -> None:
    """Without it 8 sequences are of 2 prompts: 6 + 2 x 14. With it, each is of its own: 6 + 8 x 14."""
    assert WORK.live_prompt_tokens(8) == 34
    assert replace(WORK, num_evaluated=100).live_prompt_tokens(8) == 118


def test_drawing_from_a_part_of_the_vocabulary_is_noticed() -> None:
    assert not WORK.is_restricted
    restricted = replace(CONFIG, sampling=replace(CONFIG.sampling, top_p=0.9))
    assert Workload.of(restricted).is_restricted
