"""Prompts long enough that micro-batches share them as a prefix: the same loss, gradients and scores as without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learner_examples import (
    SPEC,
    credit_of,
    groups_of,
    grpo,
    guarded_learner,
    learner_of,
    one_update,
    random_samples,
    tiny_value_model,
)
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.algorithms.base import Needs
from groat.memory.phases import LearnCost
from groat.model.recompute import Recompute
from groat.types import Sample, UserError

EXAMPLES = tuple(i * i % 23 for i in range(90))
"""What all prompts begin with: far longer than completions of at most 12 tokens."""


def long_samples(*, scored: bool = True) -> list[Sample]:
    return [
        replace(sample, prompt=replace(sample.prompt, token_ids=EXAMPLES + sample.prompt.token_ids))
        for sample in random_samples(num_each=6, scored=scored)
    ]


PLANS = [
    {"microbatch_tokens": 130},
    {"microbatch_tokens": 160},
    {"microbatch_tokens": 130, "recompute": Recompute(every=1)},
    {"microbatch_tokens": 130, "recompute": Recompute(every=2)},
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_loss_and_gradients_are_those_of_samples_that_go_alone(
    dtype: torch.dtype, tolerance: float, plan: dict[str, object]
):
    credit = credit_of(long_samples())
    alone, together = (
        one_update(
            learner_of(tiny_decoder(SPEC, dtype=dtype), tiny_adapter(SPEC, dtype=dtype), **one),  # type: ignore[arg-type]
            credit,
            grpo(beta=0.1),
        )
        for one in ({"microbatch_tokens": 1}, plan)
    )
    assert together.update.metrics == pytest.approx(alone.update.metrics, rel=10 * tolerance, abs=tolerance)
    for name, gradient in alone.gradients.items():
        torch.testing.assert_close(together.gradients[name], gradient, rtol=tolerance, atol=tolerance)
    assert together.update.num_tokens < 0.3 * alone.update.num_tokens


def test_every_prompt_is_computed_once():
    """18 samples of 3 prompts: of 90 tokens and 1 to 11 more."""
    samples = long_samples()
    learner = learner_of(tiny_decoder(SPEC), tiny_adapter(SPEC), microbatch_tokens=130)
    num_tokens = one_update(learner, credit_of(samples), grpo()).update.num_tokens
    own = sum(len(sample.prompt.token_ids) - len(EXAMPLES) + sample.num_tokens for sample in samples)
    assert len(EXAMPLES) < num_tokens <= len(EXAMPLES) + own


def test_scores_and_values_do_not_depend_on_prefixes():
    groups = groups_of(long_samples(scored=False))
    needs = Needs(old_logprobs=True, reference_logprobs=True, values=True)
    alone, together = (
        learner_of(
            tiny_decoder(SPEC), tiny_adapter(SPEC), microbatch_tokens=tokens, value_model=tiny_value_model()
        ).score(groups, needs)
        for tokens in (1, 130)
    )
    for one, other in zip(alone, together, strict=True):
        for left, right in zip(one.completions, other.completions, strict=True):
            assert left.old_logprobs == pytest.approx(right.old_logprobs, abs=1e-5)
            assert left.reference_logprobs == pytest.approx(right.reference_logprobs, abs=1e-5)
            assert left.values == pytest.approx(right.values, abs=1e-5)


COST = LearnCost(kept_per_token=1000, prefix_per_token=500, workspace_per_token=0, head_chunk=0)


def test_where_no_prefix_fits_samples_go_alone():
    """The longest sample is of 90 + 11 + 11 tokens at most: with a prefix it takes 45,000 bytes more than there are."""
    credit = credit_of(long_samples())
    roomy, _ = guarded_learner(COST, 1e9, 160)
    tight, guard = guarded_learner(COST, 115_000, 160)
    whole, cut = one_update(roomy, credit, grpo()), one_update(tight, credit, grpo())
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(cut.gradients[name], gradient, rtol=1e-9, atol=1e-12)
    assert tight.microbatch_tokens <= len(EXAMPLES) + 11
    assert guard.take_interventions()
    narrow, _ = guarded_learner(COST, 80_000, 160)
    with pytest.raises(UserError, match="a micro-batch of one sequence"):
        narrow.update(credit, grpo())
