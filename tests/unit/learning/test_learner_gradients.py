"""One loss and one gradient, whichever way they are computed: packed, one by one, padded, checkpointed, in chunks."""

from __future__ import annotations

import pytest
import torch
from learner_examples import (
    SPEC,
    TEMPERATURE,
    Taken,
    credit_of,
    grpo,
    learner_of,
    one_update,
    random_samples,
    tiny_learner,
)
from padded_transformers import padded_loss
from tiny_decoders import copied, tiny_adapter, tiny_decoder, tiny_spec

from groat.model.recompute import Recompute

PLANS = [
    {"microbatch_tokens": 1},
    {"microbatch_tokens": 25},
    {"microbatch_tokens": 60},
    {"microbatch_tokens": 10_000},
    {"microbatch_tokens": 60, "recompute": Recompute(every=1)},
    {"microbatch_tokens": 10_000, "head_chunk_tokens": 1, "recompute": Recompute(every=2)},
    {"microbatch_tokens": 10_000, "head_chunk_tokens": 1000},
]
ALGORITHMS = [
    {},
    {"beta": 0.1},
    {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    {"loss_type": "dr_grpo", "importance_sampling_correction": False},
    {"loss_type": "cispo"},
]


def taken(dtype: torch.dtype, plan: dict[str, object], algorithm: dict[str, object]) -> Taken:
    return one_update(tiny_learner(dtype=dtype, **plan), credit_of(random_samples()), grpo(**algorithm))


def assert_close(ours: Taken, theirs: Taken, tolerance: float) -> None:
    assert ours.update.metrics["loss"] == pytest.approx(theirs.update.metrics["loss"], abs=tolerance, rel=tolerance)
    for name, gradient in ours.gradients.items():
        torch.testing.assert_close(gradient, theirs.gradients[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=str)
@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_packing_changes_neither_loss_nor_gradient(plan: dict[str, object], algorithm: dict[str, object]):
    """A budget of one token lets every sample go alone."""
    one_by_one = taken(torch.float64, PLANS[0], algorithm)
    packed = taken(torch.float64, plan, algorithm)
    assert_close(packed, one_by_one, 1e-12)
    assert max(gradient.abs().max() for gradient in packed.gradients.values()) > 1e-2


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_packing_changes_little_in_fp32(plan: dict[str, object]):
    assert_close(taken(torch.float32, plan, {"beta": 0.1}), taken(torch.float32, PLANS[0], {"beta": 0.1}), 1e-5)


def test_metrics_do_not_depend_on_packing():
    algorithm = {"beta": 0.1}
    whole, cut = (taken(torch.float64, plan, algorithm).update.metrics for plan in (PLANS[3], PLANS[1]))
    assert cut == pytest.approx(whole, rel=1e-10)
    assert {"entropy", "kl", "clip_ratio/high_mean", "grad_norm", "learning_rate"} <= whole.keys()


def test_packing_computes_fewer_tokens():
    samples = random_samples()
    alone = sum(len(sample.prompt.token_ids) + sample.num_tokens - 1 for sample in samples)
    assert taken(torch.float32, PLANS[0], {}).update.num_tokens == alone
    assert taken(torch.float32, PLANS[3], {}).update.num_tokens < 0.7 * alone


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_are_those_of_padded_transformers(dtype: torch.dtype, plan: dict[str, object]):
    """Both divide by the step's totals. transformers computes norms and rotary angles in fp32 in either dtype."""
    spec = tiny_spec(qk_norm=False, qkv_bias=True, output_bias=True, mlp_bias=True)
    decoder, adapter = tiny_decoder(spec, dtype=dtype), tiny_adapter(spec, dtype=dtype)
    credit, beta = credit_of(random_samples()), 0.1
    ours = one_update(learner_of(decoder, copied(adapter), **plan), credit, grpo(beta=beta))  # type: ignore[arg-type]

    loss = padded_loss(decoder, adapter, credit.samples, credit.totals.tokens, temperature=TEMPERATURE, beta=beta)
    named = adapter.named_tensors()
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    assert ours.update.metrics["loss"] == pytest.approx(loss.item(), abs=1e-5, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours.gradients[name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["layers.0.qkv.a", "layers.0.gate_up.b.1", "layers.1.output.a", "layers.1.down.b.0"])
def test_gradient_is_the_finite_difference_of_the_loss(name: str):
    decoder = tiny_decoder(SPEC, dtype=torch.float64)
    credit, step = credit_of(random_samples()), 1e-6
    gradient = taken(torch.float64, PLANS[2], {"beta": 0.1}).gradients[name]

    def loss(row: int, column: int, change: float) -> float:
        adapter = tiny_adapter(SPEC, dtype=torch.float64)
        adapter.named_tensors()[name].data[row, column] += change
        return learner_of(decoder, adapter, microbatch_tokens=60).update(credit, grpo(beta=0.1)).metrics["loss"]

    for row, column in ((0, 0), (2, 1), (gradient.shape[0] - 1, gradient.shape[1] - 1)):
        slope = (loss(row, column, step) - loss(row, column, -step)) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_gradient_norm_is_of_the_whole_step_before_clipping():
    result = taken(torch.float64, PLANS[1], {})
    squares = sum(gradient.square().sum() for gradient in result.gradients.values())
    assert result.update.metrics["grad_norm"] == pytest.approx(float(squares) ** 0.5, rel=1e-12)
