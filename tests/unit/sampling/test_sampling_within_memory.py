"""The sampler with too little memory: fewer sequences side by side, some drawn twice, and the same completions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sampler_examples import PROMPTS, SPEC, params_of, prompts_of, sampled, sampler_of, token_ids

from groat.memory.guard import Guard
from groat.memory.sizes import forward_bytes, kv_bytes
from groat.types import UserError

PARAMS = params_of(max_completion_length=40, min_completion_length=40)
EACH = 40 * kv_bytes(SPEC, "f32") + forward_bytes(SPEC) + 4 * SPEC.vocab_size
"""What the sampler wants to see free before it lets one sequence in."""


def guard_of(resident: Callable[[], int]) -> Guard:
    return Guard(budget_bytes=100 * EACH, resident=resident, available=lambda: float("inf"))


def test_only_as_many_sequences_enter_as_there_is_memory_for():
    whole = token_ids(sampled(sampler_of(), PARAMS))
    guard = guard_of(lambda: 95 * EACH)
    assert token_ids(sampled(sampler_of(guard=guard), PARAMS)) == whole
    assert guard.take_interventions()[0].startswith("no more than 5 sequences side by side")


def test_paused_sequences_are_drawn_again_token_for_token():
    whole = token_ids(sampled(sampler_of(), PARAMS))
    looks = 0

    def filling_up() -> int:
        nonlocal looks
        looks += 1
        return 0 if looks == 1 else 100 * EACH if looks < 4 else 0

    guard, told = guard_of(filling_up), list[int]()
    sampler = sampler_of(guard=guard)
    with sampler.awake():
        groups = sampler.sample(prompts_of(), None, PARAMS, list(range(len(PROMPTS))), told.append)
    assert token_ids(groups) == whole
    assert any("9 sequences paused" in words for words in guard.take_interventions())
    assert min(told) < 0
    assert sum(told) == len(PROMPTS) * PARAMS.num_generations * PARAMS.max_completion_length


def test_where_not_even_one_sequence_fits_it_is_said():
    guard = guard_of(lambda: 100 * EACH - EACH // 2)
    with pytest.raises(UserError, match="one sequence of 40 tokens needs"):
        sampled(sampler_of(guard=guard), PARAMS)
