"""The native sampler: tokens, log-probs and endings, whatever is sampled side by side."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from sampler_examples import (
    PROMPTS,
    SPEC,
    one_by_one,
    params_of,
    policy_logprobs,
    prompts_of,
    sampled,
    sampler_of,
    token_ids,
    trained_adapter,
    uncached_logits,
    warped,
)
from tiny_decoders import LETTERS, NUM_TOKENS, LetterTokenizer, all_logits, tiny_decoder, tiny_spec

from groat.types import FinishReason, UserError

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_p": 0.8},
    {"top_k": 4},
    {"min_p": 0.15, "temperature": 0.9},
    {"repetition_penalty": 1.4},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("max_concurrent", [1, 5, 64])
def test_greedy_tokens_are_the_likeliest_of_uncached_logits(max_concurrent: int):
    """70 tokens: past the 64 that a suffix has room for at first."""
    adapter = trained_adapter()
    params = params_of(temperature=0, max_completion_length=70, min_completion_length=70, num_generations=2)
    groups = sampled(sampler_of(max_concurrent=max_concurrent), params, adapter=adapter)
    for prompt, completion in one_by_one(groups):
        logits_LV = uncached_logits(prompt.token_ids, completion.token_ids, adapter)
        logits_LV[:, 0] = -torch.inf  # the stop token, barred for 70 tokens
        assert logits_LV.argmax(-1).tolist() == list(completion.token_ids)
    assert len({token for _, completion in one_by_one(groups) for token in completion.token_ids}) > 5


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_logprobs_are_those_of_an_uncached_recomputation(settings: dict[str, Any]):
    params, adapter = params_of(max_completion_length=30, **settings), trained_adapter()
    for prompt, completion in one_by_one(sampled(sampler_of(max_concurrent=7), params, adapter=adapter)):
        policy = policy_logprobs(prompt.token_ids, completion, adapter, params.temperature)
        assert completion.policy_logprobs == pytest.approx(policy.tolist(), abs=1e-4)
        logits_LV = uncached_logits(prompt.token_ids, completion.token_ids, adapter)
        for place, token_id in enumerate(completion.token_ids):
            seen = [*prompt.token_ids, *completion.token_ids[:place]]
            theirs_V = warped(logits_LV[place : place + 1], seen, params)[0].log_softmax(-1)
            assert completion.sampler_logprobs[place] == pytest.approx(theirs_V[token_id].item(), abs=1e-4)


@pytest.mark.parametrize("adapter", [None, trained_adapter()], ids=["base", "adapter"])
def test_completions_come_from_the_policy_they_are_sampled_under(adapter: Any):
    groups = sampled(sampler_of(), params_of(), adapter=replace(adapter, version=9) if adapter else None)
    for prompt, completion in one_by_one(groups):
        mine, other = (
            policy_logprobs(prompt.token_ids, completion, policy, 1.0)
            for policy in (adapter, None if adapter else trained_adapter())
        )
        assert completion.policy_logprobs == pytest.approx(mine.tolist(), abs=1e-4)
        assert completion.policy_logprobs != pytest.approx(other.tolist(), abs=1e-2)
        assert completion.policy_version == (9 if adapter else 0)


@pytest.mark.parametrize("max_concurrent", [1, 2, 3, 7, 200])
def test_completions_do_not_depend_on_how_many_are_sampled_side_by_side(max_concurrent: int):
    params = params_of(max_completion_length=80, num_generations=4)
    assert token_ids(sampled(sampler_of(max_concurrent=max_concurrent), params)) == token_ids(
        sampled(sampler_of(), params)
    )


def test_completions_do_not_depend_on_what_they_are_batched_with():
    params, seeds = params_of(max_completion_length=40), list(range(len(PROMPTS)))
    together = token_ids(sampled(sampler_of(), params, seeds=seeds))
    for index, prompt in enumerate(PROMPTS):
        assert token_ids(sampled(sampler_of(), params, [prompt], seeds=[seeds[index]])) == [together[index]]


def test_completions_do_not_depend_on_the_order_of_prompts():
    params, order = params_of(max_completion_length=40), list(range(len(PROMPTS)))
    together = token_ids(sampled(sampler_of(max_concurrent=4), params))
    for shuffle in range(4):
        random.Random(shuffle).shuffle(order)
        groups = sampled(sampler_of(max_concurrent=4), params, [PROMPTS[i] for i in order], seeds=order)
        assert [group.prompt.token_ids for group in groups] == [PROMPTS[i] for i in order]
        assert token_ids(groups) == [together[i] for i in order]


def test_completions_do_not_depend_on_the_size_of_the_group_or_the_longest_length():
    few = token_ids(sampled(sampler_of(), params_of(num_generations=2, max_completion_length=5)))
    many = token_ids(sampled(sampler_of(), params_of(num_generations=6, max_completion_length=9)))
    assert [[c[:5] for c in group[:2]] for group in many] == few


def test_prompts_longer_than_one_forward_are_computed_in_pieces():
    whole = sampled(sampler_of(), params_of())
    for prefill_tokens in (1, 3, 7):
        pieces = sampled(sampler_of(prefill_tokens=prefill_tokens), params_of())
        assert token_ids(pieces) == token_ids(whole)
        for (_, mine), (_, theirs) in zip(one_by_one(pieces), one_by_one(whole), strict=True):
            assert mine.policy_logprobs == pytest.approx(theirs.policy_logprobs, abs=1e-4)


def test_seeds_tell_equal_prompts_apart():
    params = params_of(min_completion_length=12)
    same, other = (token_ids(sampled(sampler_of(), params, [(1, 2)] * 2, seeds=seeds)) for seeds in ([4, 4], [4, 5]))
    assert same[0] == same[1] == other[0] != other[1]
    assert len(set(other[0])) == 3  # the completions of one group differ as well


def test_one_prompts_first_tokens_come_as_often_as_they_are_likely():
    """Chi-square over 29 tokens of 4000 completions; the 99.99% quantile for 28 degrees of freedom is 65.2."""
    params = params_of(num_generations=4000, max_completion_length=1)
    (group,) = sampled(sampler_of(max_concurrent=4000), params, [(1, 2, 3)])
    found_V = torch.bincount(torch.tensor([c.token_ids[0] for c in group.completions]), minlength=NUM_TOKENS)
    expected_V = all_logits(tiny_decoder(SPEC), (1, 2, 3))[-1].softmax(-1) * 4000
    assert ((found_V - expected_V).square() / expected_V).sum() < 65.2


def test_a_stop_token_ends_a_completion_and_leaves_no_text():
    tokenizer = LetterTokenizer(stops=(0, 3))
    groups = sampled(sampler_of(tokenizer=tokenizer), params_of(max_completion_length=60, num_generations=8))
    completions = [completion for _, completion in one_by_one(groups)]
    stopped = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert 0 < len(stopped) < len(completions)
    for completion in completions:
        is_stopped = completion.token_ids[-1] in (0, 3)
        assert completion.finish_reason == (FinishReason.STOP if is_stopped else FinishReason.LENGTH)
        assert not {0, 3} & set(completion.token_ids[:-1])
        assert is_stopped or len(completion.token_ids) == 60
        shown = completion.token_ids[:-1] if is_stopped else completion.token_ids
        assert completion.text == "".join(LETTERS[i] for i in shown)
        assert len(completion.sampler_logprobs) == len(completion.policy_logprobs) == len(completion.token_ids)


@pytest.mark.parametrize("least", [0, 1, 5, 12])
def test_no_stop_token_is_drawn_before_the_least_length(least: int):
    tokenizer = LetterTokenizer(stops=range(20))
    params = params_of(min_completion_length=least, num_generations=8)
    completions = [c for _, c in one_by_one(sampled(sampler_of(tokenizer=tokenizer), params))]
    assert min(len(c.token_ids) for c in completions) >= max(1, least)
    for completion in completions:
        assert all(token_id >= 20 for token_id in completion.token_ids[:least])
    if least < 12:
        assert any(c.finish_reason is FinishReason.STOP for c in completions)


def test_a_stop_token_as_last_allowed_token_is_a_stop():
    tokenizer = LetterTokenizer(stops=range(NUM_TOKENS))
    groups = sampled(sampler_of(tokenizer=tokenizer), params_of(max_completion_length=1))
    assert {completion.finish_reason for _, completion in one_by_one(groups)} == {FinishReason.STOP}


def test_a_tokenizer_without_stop_tokens_lets_every_completion_run_to_its_end():
    groups = sampled(sampler_of(tokenizer=LetterTokenizer()), params_of(min_completion_length=3))
    for _, completion in one_by_one(groups):
        assert (len(completion.token_ids), completion.finish_reason) == (12, FinishReason.LENGTH)


@pytest.mark.parametrize("stop", [(" ",), ("a", "b"), ("ab", "q"), ("xyz", "ef", "k.")])
def test_a_stop_string_ends_a_completion_at_its_last_letter(stop: tuple[str, ...]):
    """One token is one letter, so the same completions without stop strings say where each had to end."""
    tokenizer = LetterTokenizer(stops=(28,))
    params = params_of(max_completion_length=40, num_generations=20)
    free = one_by_one(sampled(sampler_of(tokenizer=tokenizer), params))
    stopped = one_by_one(sampled(sampler_of(tokenizer=tokenizer), replace(params, stop=stop)))
    assert any(
        len(mine.token_ids) < len(theirs.token_ids) for (_, mine), (_, theirs) in zip(stopped, free, strict=True)
    )
    for (_, mine), (_, theirs) in zip(stopped, free, strict=True):
        ends = [theirs.text.index(word) + len(word) for word in stop if word in theirs.text]
        if ends:
            assert len(mine.token_ids) == min(ends)
            assert mine.finish_reason is FinishReason.STOP
            assert mine.text == min((theirs.text[: theirs.text.index(w)] for w in stop if w in theirs.text), key=len)
        else:
            assert (mine.token_ids, mine.text, mine.finish_reason) == (
                theirs.token_ids,
                theirs.text,
                theirs.finish_reason,
            )


def test_a_stop_string_may_span_tokens_and_end_inside_one():
    """Tokens are pairs of letters, so `bc` can begin in one token and end in the middle of the next."""
    pieces = (*tuple(first + second for first in "abcde" for second in "abcde"), "x", "y", "z", ".")
    tokenizer = LetterTokenizer(pieces=pieces)
    params = params_of(max_completion_length=30, num_generations=30, stop=("bcd",))
    completions = [c for _, c in one_by_one(sampled(sampler_of(tokenizer=tokenizer), params))]
    ended = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert ended
    for completion in completions:
        whole, before = (tokenizer.decode(ids) for ids in (completion.token_ids, completion.token_ids[:-1]))
        assert "bcd" not in before
        assert ("bcd" in whole) == (completion.finish_reason is FinishReason.STOP)
        assert completion.text == whole.split("bcd")[0]


def test_a_prompt_that_leaves_no_room_for_its_completion_is_refused_before_anything_is_computed():
    decoder = tiny_decoder(tiny_spec(max_context=20))
    params = params_of(max_completion_length=12)
    assert sampled(sampler_of(decoder), params, [(1,) * 8])
    with pytest.raises(UserError, match=r"problem p1: the prompt has 9 tokens.*12.*20 tokens"):
        sampled(sampler_of(decoder), params, [(1,), (1,) * 9])
    with pytest.raises(UserError, match="problem p0: the prompt has no tokens"):
        sampled(sampler_of(decoder), params, [()])


def test_sampling_asleep_is_a_mistake():
    with pytest.raises(AssertionError, match="awake"):
        sampler_of().sample(prompts_of(), None, params_of(), [0] * len(PROMPTS))


def test_no_prompts_give_no_groups():
    assert sampled(sampler_of(), params_of(), []) == []


def test_progress_counts_tokens_as_they_are_drawn_and_those_that_an_early_end_spares():
    sampler, told, params = sampler_of(max_concurrent=5), [], params_of()
    with sampler.awake():
        groups = sampler.sample(prompts_of(), None, params, list(range(len(PROMPTS))), told.append)
    lengths = [len(completion.token_ids) for _, completion in one_by_one(groups)]
    assert min(lengths) < params.max_completion_length
    assert sum(told) == len(lengths) * params.max_completion_length
    assert len(told) >= sum(lengths) / 5


def test_float64_weights_are_sampled_in_float64():
    decoder = tiny_decoder(SPEC, dtype=torch.float64)
    for prompt, completion in one_by_one(sampled(sampler_of(decoder), params_of())):
        logits_LV = uncached_logits(prompt.token_ids, completion.token_ids, None, decoder)
        expected = logits_LV.log_softmax(-1)[range(len(completion.token_ids)), list(completion.token_ids)]
        assert completion.policy_logprobs == pytest.approx(expected.tolist(), abs=1e-12)
