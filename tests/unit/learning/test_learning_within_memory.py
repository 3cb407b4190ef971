"""The learner with too little memory: smaller micro-batches, and the same gradients."""

from __future__ import annotations

import pytest
import torch
from learner_examples import credit_of, grpo, guarded_learner, one_update, random_samples

from groat.learning.learner import Learner
from groat.memory.guard import Guard
from groat.memory.phases import LearnCost
from groat.types import UserError

COST = LearnCost(kept_per_token=900, prefix_per_token=0, workspace_per_token=100, head_chunk=0)
"""1000 bytes a token."""


def learner_with_room(tokens: float) -> tuple[Learner, Guard]:
    """A guard that lets a micro-batch of so many tokens pass, gradients not yet counted."""
    return guarded_learner(COST, 1000 * tokens, 10_000)


def test_microbatches_are_cut_until_they_fit_and_the_gradients_stay():
    credit = credit_of(random_samples())
    roomy, untroubled = learner_with_room(10_000)
    tight, guard = learner_with_room(40)
    sizes: list[int] = []
    whole, cut = one_update(roomy, credit, grpo()), one_update(tight, credit, grpo())
    tight.update(credit, grpo(), sizes.append)
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(cut.gradients[name], gradient, rtol=1e-9, atol=1e-12)
    assert untroubled.take_interventions() == []
    assert all(words.startswith("micro-batches cut down to ") for words in guard.take_interventions())
    assert max(sizes) <= 40
    assert roomy.microbatch_tokens == 10_000


def test_a_sequence_that_fits_nowhere_is_refused_and_the_weights_stay():
    learner, _ = learner_with_room(3)
    before = {name: tensor.detach().clone() for name, tensor in learner.adapter.named_tensors().items()}
    with pytest.raises(UserError, match="a micro-batch of one sequence"):
        learner.update(credit_of(random_samples()), grpo())
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.adapter.named_tensors().items())


def test_a_rehearsal_changes_nothing_but_takes_the_moments_memory_and_meets_the_largest_microbatch():
    learner, guard = learner_with_room(300)
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.rehearse(prompt_tokens=20, completion_tokens=50)
    after = learner.state()
    assert all(torch.equal(before[name], after.pop(name)) for name in before)
    assert {name.split(".")[0] for name in after} == {"optimizer"}
    assert not any(tensor.count_nonzero() for tensor in after.values())
    assert all(tensor.grad is None for tensor in learner.adapter.named_tensors().values())
    assert guard.take_interventions()
    assert learner.microbatch_tokens <= 300


def test_the_largest_microbatch_of_a_step_comes_first():
    sizes: list[int] = []
    learner, _ = learner_with_room(10_000)
    learner.microbatch_tokens = 30
    short, long = random_samples(0, 2, 2), random_samples(1, 1, 4)
    credit = credit_of(short + long)
    learner.update(credit, grpo(), sizes.append)
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)
