"""Updates: what changes the weights, what must not, and how a learner goes on where another stopped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from learner_examples import (
    SPEC,
    assert_same_bits,
    bits,
    credit_of,
    grpo,
    learner_of,
    one_update,
    random_samples,
    tiny_learner,
)
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.algorithms.base import Credit, Forward, Loss
from groat.algorithms.grpo import GRPO
from groat.batching import Targets, Totals

CREDITS = [credit_of(random_samples(seed)) for seed in range(5)]


class Broken(GRPO):
    """Its loss is finite but for one micro-batch of one update."""

    def __init__(self, healthy: GRPO, kind: str, broken_call: int) -> None:
        super().__init__(healthy.config, healthy.max_completion_length)
        self.kind, self.broken_call, self.calls = kind, broken_call, 0

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        loss = super().loss(forward, targets, totals)
        self.calls += 1
        if self.calls != self.broken_call:
            return loss
        if self.kind == "loss":
            return replace(loss, total=loss.total * math.nan)
        # The square root of 0: a finite loss, an infinite gradient.
        return replace(loss, total=loss.total + (forward.logprobs_N - forward.logprobs_N.detach()).sqrt().sum())


def test_an_update_moves_every_tensor_by_clipped_adamw():
    """A first AdamW step with epsilon near 0 moves every weight by the learning rate against its gradient's sign."""
    learner = tiny_learner(dtype=torch.float64, learning_rate=1e-3, adam_epsilon=1e-30)
    before = bits(learner.adapter.named_tensors())
    taken = one_update(learner, CREDITS[0], grpo())
    for name, tensor in learner.adapter.named_tensors().items():
        torch.testing.assert_close(
            tensor.detach(), before[name] - 1e-3 * taken.gradients[name].sign(), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_gradients_are_scaled_down_to_max_grad_norm(limit: float):
    """The first moment is (1 - beta1) times the gradient that reached the optimizer."""
    learner = tiny_learner(dtype=torch.float64, max_grad_norm=limit)
    taken = one_update(learner, CREDITS[0], grpo())
    norm = taken.update.metrics["grad_norm"]
    assert norm > 0.01
    factor = limit / (norm + 1e-6) if limit else 1.0
    for name, gradient in taken.gradients.items():
        torch.testing.assert_close(learner.state()[f"optimizer.{name}.exp_avg"], 0.1 * factor * gradient)


@pytest.mark.parametrize("kind", ["loss", "grad_norm"])
@pytest.mark.parametrize("broken_microbatch", [1, 2])
def test_a_step_that_is_not_finite_leaves_every_bit_as_it_was(kind: str, broken_microbatch: int):
    learner = tiny_learner(microbatch_tokens=60)
    learner.update(CREDITS[0], grpo())
    before = bits(learner.state())
    update = learner.update(CREDITS[1], Broken(grpo(), kind, broken_microbatch))
    assert update.skipped is not None
    assert update.skipped.startswith(kind)
    assert_same_bits(bits(learner.state()), before)


@pytest.mark.parametrize("kind", ["loss", "grad_norm"])
def test_steps_after_a_skipped_one_are_as_if_it_had_not_been(kind: str):
    skipping, plain = tiny_learner(), tiny_learner()
    for learner in (skipping, plain):
        learner.update(CREDITS[0], grpo())
    assert skipping.update(CREDITS[1], Broken(grpo(), kind, 1)).skipped
    results = [learner.update(CREDITS[2], grpo()) for learner in (skipping, plain)]
    assert results[0].skipped is None
    assert results[0].metrics == results[1].metrics
    assert_same_bits(bits(skipping.state()), bits(plain.state()))


def test_a_skipped_iteration_ends_the_update():
    learner, broken = tiny_learner(), Broken(grpo(num_iterations=3), "loss", 2)
    update = learner.update(CREDITS[0], broken)
    assert update.skipped
    assert broken.calls == 2


def test_an_update_without_samples_changes_nothing():
    learner = tiny_learner()
    learner.update(CREDITS[0], grpo())
    before = bits(learner.state())
    nothing = Credit(samples=(), totals=Totals(sequences=8, tokens=100), metrics={})
    update = learner.update(nothing, grpo())
    assert_same_bits(bits(learner.state()), before)
    assert update.skipped is None
    assert update.metrics["loss"] == update.metrics["grad_norm"] == 0
    assert update.num_tokens == 0
    assert update.logprob_differences == ()


def test_weights_decay_only_in_updates_that_have_samples():
    learner = tiny_learner(weight_decay=0.5)
    before = bits(learner.adapter.named_tensors())
    learner.update(Credit(samples=(), totals=Totals(sequences=8, tokens=100), metrics={}), grpo())
    assert_same_bits(bits(learner.adapter.named_tensors()), before)


def test_the_base_weights_never_change():
    decoder = tiny_decoder(SPEC)
    before = [tensor.clone() for tensor in decoder.weights.tensors()]
    learner_of(decoder, tiny_adapter(SPEC)).update(CREDITS[0], grpo())
    assert all(torch.equal(old, new) for old, new in zip(before, decoder.weights.tensors(), strict=True))


def test_versions_count_updates():
    learner = tiny_learner()
    assert learner.adapter.version == 0
    assert learner.update(CREDITS[0], grpo()).adapter.version == 1
    assert learner.update(CREDITS[0], grpo(num_iterations=3)).adapter.version == 4 == learner.adapter.version


@pytest.mark.parametrize("steps_before", [0, 1, 2])
def test_a_restored_learner_goes_on_bit_for_bit(steps_before: int):
    whole = tiny_learner(lr_scheduler_type="linear")
    for credit in CREDITS[:steps_before]:
        whole.update(credit, grpo())
    saved, version = bits(whole.state()), whole.adapter.version
    other = tiny_learner(seed=5, lr_scheduler_type="linear")
    other.update(CREDITS[4], grpo())
    other.restore(saved, version)
    for credit in CREDITS[2:4]:
        results = [learner.update(credit, grpo()) for learner in (whole, other)]
        assert results[0].metrics == results[1].metrics
        assert results[0].logprob_differences == results[1].logprob_differences
    assert_same_bits(bits(whole.state()), bits(other.state()))
    assert whole.adapter.version == other.adapter.version == version + 2


def test_a_restored_learner_shares_no_tensor_with_what_it_was_restored_from():
    first, second = tiny_learner(), tiny_learner(seed=5)
    first.update(CREDITS[0], grpo())
    second.restore(first.state(), first.adapter.version)
    before = bits(first.state())
    second.update(CREDITS[1], grpo())
    assert_same_bits(bits(first.state()), before)


def test_state_names_adapter_and_both_moments():
    learner = tiny_learner()
    names = learner.adapter.named_tensors().keys()
    assert learner.state().keys() == {f"adapter.{name}" for name in names}
    learner.update(CREDITS[0], grpo())
    moments = {f"optimizer.{name}.{moment}" for name in names for moment in ("step", "exp_avg", "exp_avg_sq")}
    assert learner.state().keys() == {f"adapter.{name}" for name in names} | moments


def test_every_iteration_has_its_own_learning_rate():
    """2 steps of 2 iterations: 1, 3/4, 1/2 and 1/4 of the rate; a step reports the mean of its two."""
    learner = tiny_learner(lr_scheduler_type="linear", learning_rate=1e-3, num_updates=4)
    found = [learner.update(credit, grpo(num_iterations=2)).metrics["learning_rate"] for credit in CREDITS[:2]]
    assert found == pytest.approx([0.875e-3, 0.375e-3])


def test_the_learning_rate_is_what_moves_the_weights():
    """With epsilon near 0 a first AdamW step is as long as the rate: here that of the second of 4 updates, 3/4."""
    learner = tiny_learner(
        dtype=torch.float64, lr_scheduler_type="linear", learning_rate=1e-3, num_updates=4, adam_epsilon=1e-30
    )
    learner.update(Credit(samples=(), totals=Totals(sequences=1, tokens=1), metrics={}), grpo())
    before = bits(learner.adapter.named_tensors())
    learner.update(CREDITS[0], grpo())
    for name, tensor in learner.adapter.named_tensors().items():
        torch.testing.assert_close((tensor - before[name]).abs().detach(), torch.full_like(tensor, 0.75e-3))


def test_differences_are_the_learners_logprobs_minus_the_samplers():
    """Every sampler log-prob is -1 here; the differences come before the first update, in packed order."""
    learner = tiny_learner()
    samples = random_samples(3, num_prompts=1, num_each=1)
    first = learner.update(credit_of(samples), grpo(num_iterations=2)).logprob_differences
    scored = tiny_learner().update(credit_of(samples), grpo()).logprob_differences
    assert len(first) == samples[0].num_tokens
    assert first == scored
