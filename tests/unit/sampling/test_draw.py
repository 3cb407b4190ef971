"""From logits to a token: against transformers' own filters, by hand, and by counting."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sampler_examples import params_of, warped

from groat.sampling.base import SamplingParams
from groat.sampling.native.draw import Barred, draw

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_p": 0.7},
    {"top_p": 0.05},
    {"top_k": 3},
    {"top_k": 100},
    {"min_p": 0.2},
    {"repetition_penalty": 1.5},
    {"repetition_penalty": 0.7, "temperature": 0.8},
    {"temperature": 0.8, "top_k": 6, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3},
]
V = 8


def random_logits(rows: int, columns: int = V, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def draws(logits_V: torch.Tensor, params: SamplingParams, count: int, seen: list[int] | None = None) -> torch.Tensor:
    """One distribution drawn from `count` times."""
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen_S = None if seen is None else [torch.tensor(seen)] * count
    return draw(logits_V.repeat(count, 1), params, uniforms, seen_S).token_ids_S


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_tokens_come_as_often_as_they_are_likely(settings: dict[str, Any]):
    """Chi-square over the tokens that can be drawn; the 99.99% quantile for at most 7 degrees of freedom is 29.9."""
    params, count, seen = params_of(**settings), 20_000, [1, 2]
    logits_1V = random_logits(1)
    found_V = torch.bincount(draws(logits_1V[0], params, count, seen), minlength=V)
    expected_V = warped(logits_1V, seen, params)[0].softmax(-1) * count
    possible_V = expected_V > 0
    assert found_V[~possible_V].sum() == 0
    distance = ((found_V - expected_V)[possible_V].square() / expected_V[possible_V]).sum()
    assert distance < 29.9


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sampler_logprobs_are_those_of_transformers_filters(settings: dict[str, Any]):
    params = params_of(**settings)
    logits_SV, seen = random_logits(200, 50), [3, 7, 7, 11]
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = draw(logits_SV.clone(), params, uniforms, [torch.tensor(seen).unique()] * 200)
    for row in range(200):
        theirs_V = warped(logits_SV[row : row + 1], seen, params)[0].log_softmax(-1)
        assert drawn.sampler_logprobs_S[row].item() == pytest.approx(theirs_V[drawn.token_ids_S[row]].item(), abs=1e-5)
    plain_SV = (logits_SV / params.temperature).log_softmax(-1)
    torch.testing.assert_close(drawn.policy_logprobs_S, plain_SV.gather(1, drawn.token_ids_S[:, None])[:, 0])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_tokens_that_can_be_drawn_are_those_transformers_leaves(settings: dict[str, Any]):
    """1000 uniforms from 0 to 1, evenly, reach every token with a probability above 1/999."""
    params, seen = params_of(**settings), [1, 4]
    uniforms = torch.linspace(0, 1, 1000, dtype=torch.float64)
    for seed in range(5):
        logits_1V = random_logits(1, seed=seed)
        probabilities_V = warped(logits_1V, seen, params)[0].softmax(-1)
        drawn = draw(logits_1V.repeat(1000, 1), params, uniforms, [torch.tensor(seen)] * 1000)
        found = set(drawn.token_ids_S.tolist())
        assert found <= set(probabilities_V.nonzero()[:, 0].tolist())
        assert found >= set((probabilities_V > 1.1e-3).nonzero()[:, 0].tolist())


def test_a_uniform_finds_its_place_in_the_cumulative_distribution():
    """Probabilities 1/2, 1/4, 1/4: tokens 0, 1 and 2 have [0, 1/2), [1/2, 3/4) and [3/4, 1)."""
    logits_V = torch.tensor([0.5, 0.25, 0.25]).log()
    uniforms = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.99], dtype=torch.float64)
    drawn = draw(logits_V.repeat(6, 1), params_of(), uniforms)
    assert drawn.token_ids_S.tolist() == [0, 0, 1, 1, 2, 2]
    assert drawn.policy_logprobs_S.tolist() == pytest.approx([math.log(0.5)] * 2 + [math.log(0.25)] * 4)


@pytest.mark.parametrize("scale", [0.01, 4.0], ids=["flat", "peaked"])
def test_a_nucleus_in_a_large_vocabulary_is_what_a_sort_finds(scale: float):
    """Flat, the nucleus has more tokens than are looked at first."""
    logits_SV = scale * random_logits(5, 3000)
    uniforms = torch.rand(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = draw(logits_SV.clone(), params_of(top_p=0.8), uniforms)
    for row, token_id in enumerate(drawn.token_ids_S.tolist()):
        probabilities, order = logits_SV[row].softmax(-1).sort(descending=True)
        count = int((probabilities.cumsum(-1) < 0.8).sum()) + 1
        assert token_id in order[:count]
        expected = (logits_SV[row, token_id] - logits_SV[row, order[:count]].logsumexp(-1)).item()
        assert drawn.sampler_logprobs_S[row].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval_never_find_a_token_that_was_filtered_out(uniform: float):
    """1 - 2^-53 is 1 in fp32. Tokens 0 and 3 are barred."""
    drawn = draw(
        torch.zeros(1, 4), params_of(), torch.tensor([uniform], dtype=torch.float64), None, Barred([0], [0, 3])
    )
    assert drawn.token_ids_S.tolist() == [1 if uniform == 0 else 2]


def test_a_barred_token_is_not_drawn_and_the_others_share_its_probability():
    """Four equal tokens, two barred in the second row only: 1/2 each as drawn, 1/4 each under the policy."""
    uniforms = torch.tensor([0.3, 0.3], dtype=torch.float64)
    drawn = draw(torch.zeros(2, 4), params_of(), uniforms, None, Barred([1], [0, 1]))
    assert drawn.token_ids_S.tolist() == [1, 2]
    assert drawn.sampler_logprobs_S.tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 2)])
    assert drawn.policy_logprobs_S.tolist() == pytest.approx([math.log(1 / 4)] * 2)


def test_barring_no_token_bars_none():
    drawn = draw(torch.zeros(1, 4), params_of(), torch.tensor([0.9]), None, Barred([0], []))
    assert drawn.token_ids_S.tolist() == [3]


def test_temperature_zero_draws_the_likeliest_with_its_logprob_at_temperature_one():
    logits_SV = random_logits(50)
    drawn = draw(logits_SV.clone(), params_of(temperature=0, top_p=0.1, top_k=1), torch.rand(50))
    assert torch.equal(drawn.token_ids_S, logits_SV.argmax(-1))
    torch.testing.assert_close(drawn.policy_logprobs_S, logits_SV.log_softmax(-1).amax(-1))
    assert torch.equal(drawn.sampler_logprobs_S, drawn.policy_logprobs_S)


def test_the_penalty_by_hand():
    """Seen tokens 0 and 1: a logit of 2 becomes 1, one of -1 becomes -2; then token 2 with 1.5 is the likeliest."""
    logits_1V = torch.tensor([[2.0, -1.0, 1.5]])
    params = params_of(temperature=0, repetition_penalty=2.0)
    drawn = draw(logits_1V.clone(), params, torch.zeros(1), [torch.tensor([0, 1])])
    total = math.exp(1) + math.exp(-2) + math.exp(1.5)
    assert drawn.token_ids_S.tolist() == [2]
    assert drawn.sampler_logprobs_S.item() == pytest.approx(1.5 - math.log(total), abs=1e-6)
    plain = math.exp(2) + math.exp(-1) + math.exp(1.5)
    assert drawn.policy_logprobs_S.item() == pytest.approx(1.5 - math.log(plain), abs=1e-6)


def test_a_row_is_drawn_alike_whatever_stands_beside_it():
    logits_SV, uniforms = random_logits(30), torch.rand(30, dtype=torch.float64)
    params = params_of(temperature=0.8, top_p=0.9, top_k=5, min_p=0.05)
    together = draw(logits_SV.clone(), params, uniforms)
    for row in range(30):
        alone = draw(logits_SV[row : row + 1].clone(), params, uniforms[row : row + 1])
        assert alone.token_ids_S[0] == together.token_ids_S[row]
        assert alone.sampler_logprobs_S[0].item() == pytest.approx(together.sampler_logprobs_S[row].item(), abs=1e-6)


def test_very_large_logits_are_drawn_from():
    logits_1V = torch.tensor([[30_000.0, 29_999.0, -30_000.0]])
    drawn = draw(logits_1V.clone(), params_of(), torch.tensor([0.9], dtype=torch.float64))
    assert drawn.token_ids_S.tolist() == [1]
    assert drawn.policy_logprobs_S.item() == pytest.approx(-1 - math.log(1 + math.exp(-1)), abs=2e-3)
