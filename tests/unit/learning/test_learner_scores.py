"""Log-probs computed before an update: of which policy, and in which order."""

from __future__ import annotations

import pytest
import torch
from learner_examples import SPEC, TEMPERATURE, groups_of, learner_of, random_samples, tiny_learner
from tiny_decoders import all_logits, tiny_adapter, tiny_decoder

from groat.algorithms.base import Needs
from groat.config.tree import LoraConfig
from groat.model.lora import Adapter, new_adapter
from groat.model.recompute import Recompute
from groat.types import Group


def directly(groups: list[Group], adapter: Adapter | None) -> list[list[tuple[float, ...]]]:
    """Every completion's log-probs from logits computed whole, sequence by sequence."""
    decoder = tiny_decoder(SPEC)

    def of(prompt: tuple[int, ...], completion: tuple[int, ...]) -> tuple[float, ...]:
        with torch.no_grad():
            logits_TV = all_logits(decoder, prompt + completion, adapter) / TEMPERATURE
        logprobs_LV = logits_TV[len(prompt) - 1 : -1].log_softmax(-1)
        return tuple(logprobs_LV[range(len(completion)), list(completion)].tolist())

    return [[of(group.prompt.token_ids, c.token_ids) for c in group.completions] for group in groups]


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 10_000])
def test_scores_are_the_logprobs_computed_directly_and_in_order(microbatch_tokens: int):
    groups = groups_of(random_samples(scored=False))
    adapter = tiny_adapter(SPEC)
    learner = learner_of(tiny_decoder(SPEC), adapter, microbatch_tokens=microbatch_tokens)
    scored = learner.score(groups, Needs(old_logprobs=True, reference_logprobs=True))
    old, reference = directly(groups, adapter), directly(groups, None)
    for index, group in enumerate(scored):
        assert group.prompt is groups[index].prompt
        for place, completion in enumerate(group.completions):
            assert completion.token_ids == groups[index].completions[place].token_ids
            assert completion.old_logprobs == pytest.approx(old[index][place], abs=2e-5)
            assert completion.reference_logprobs == pytest.approx(reference[index][place], abs=2e-5)
    assert old[0][0] != pytest.approx(reference[0][0], abs=1e-2)


def test_what_is_not_needed_is_not_computed():
    groups = groups_of(random_samples(scored=False))
    tokens: list[int] = []
    assert tiny_learner().score(groups, Needs(), tokens.append) == groups
    assert tokens == []
    scored = tiny_learner().score(groups, Needs(reference_logprobs=True))
    assert all(c.old_logprobs is None and c.reference_logprobs for group in scored for c in group.completions)


def test_the_reference_of_a_new_adapter_is_its_own_policy():
    groups = groups_of(random_samples(scored=False))
    adapter = new_adapter(SPEC, LoraConfig(r=2), torch.Generator().manual_seed(0))
    scored = learner_of(tiny_decoder(SPEC), adapter).score(groups, Needs(old_logprobs=True, reference_logprobs=True))
    for group in scored:
        for completion in group.completions:
            assert completion.old_logprobs == completion.reference_logprobs


def test_scoring_reports_every_token_it_computes():
    groups, tokens = groups_of(random_samples(scored=False)), []
    tiny_learner(microbatch_tokens=1).score(groups, Needs(old_logprobs=True), tokens.append)
    assert sum(tokens) == sum(
        len(group.prompt.token_ids) + len(c.token_ids) - 1 for group in groups for c in group.completions
    )


def test_scoring_leaves_no_gradient_behind():
    adapter = tiny_adapter(SPEC)
    learner = learner_of(tiny_decoder(SPEC), adapter, recompute=Recompute(every=1))
    learner.score(groups_of(random_samples(scored=False)), Needs(old_logprobs=True))
    assert all(tensor.grad is None for tensor in adapter.named_tensors().values())
