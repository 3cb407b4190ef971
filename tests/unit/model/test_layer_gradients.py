"""The hand-written backward of each layer: finite differences, and autograd through the plain formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_decoders import tiny_adapter, tiny_decoder, tiny_spec

from groat.kernels.matrix import Matrix, dense_of, stored
from groat.model.attention import tree_attention
from groat.model.layers import Prepare, linear, rms_norm, rotate, swiglu
from groat.model.lora import LoraPair
from groat.model.recompute import Recompute
from groat.model.weights import Linear
from groat.trees import grow
from groat.types import StorageKind


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def random_pair(parts: tuple[int, ...], columns: int, r: int = 2) -> LoraPair:
    bs = tuple(random(rows, r, seed=index) for index, rows in enumerate(parts))
    return LoraPair(a_RK=random(len(parts) * r, columns, seed=9), bs_NR=bs)


def rms_normed(inputs: torch.Tensor) -> torch.Tensor:
    return rms_norm(inputs, random(inputs.shape[1], seed=3).detach(), 1e-5)


@pytest.mark.parametrize("parts", [(5,), (4, 2, 2), (3, 3)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_gradient_of_a_linear_layer_with_lora_is_its_finite_difference(parts: tuple[int, ...], has_bias: bool):
    base = Linear(
        weight_NK=random(sum(parts), 3, seed=5).detach(),
        bias_N=random(sum(parts), seed=6).detach() if has_bias else None,
    )
    pair = random_pair(parts, 3)

    def apply(inputs: torch.Tensor, a_RK: torch.Tensor, *bs_NR: torch.Tensor) -> torch.Tensor:
        return linear(inputs, base, LoraPair(a_RK=a_RK, bs_NR=bs_NR), 0.7)

    assert torch.autograd.gradcheck(apply, (random(4, 3), pair.a_RK, *pair.bs_NR))


@pytest.mark.parametrize("prepare", [rms_normed, swiglu], ids=["rms_norm", "swiglu"])
def test_gradient_through_what_a_linear_layer_does_to_its_input_first(prepare: Prepare):
    """Against finite differences, and against autograd through the same thing done outside."""
    inputs = random(4, 6)
    columns = prepare(inputs).shape[1]
    base, pair = Linear(weight_NK=random(5, columns, seed=2).detach()), random_pair((3, 2), columns)

    def inside(inputs: torch.Tensor, a_RK: torch.Tensor, *bs_NR: torch.Tensor) -> torch.Tensor:
        return linear(inputs, base, LoraPair(a_RK=a_RK, bs_NR=bs_NR), 0.7, prepare)

    leaves = (inputs, pair.a_RK, *pair.bs_NR)
    assert torch.autograd.gradcheck(inside, leaves)
    outside = linear(prepare(inputs), base, pair, 0.7)
    assert torch.equal(inside(*leaves), outside)
    for mine, theirs in zip(
        torch.autograd.grad(inside(*leaves).square().sum(), leaves),
        torch.autograd.grad(outside.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("parts", [(5,), (4, 2, 2)])
def test_a_linear_layer_with_lora_is_one_with_merged_weights(parts: tuple[int, ...]):
    """Part i of the fused weight gains scale * B_i A_i, where A_i is its r rows of the stacked A."""
    base = Linear(weight_NK=random(sum(parts), 3, seed=5).detach(), bias_N=random(sum(parts), seed=6).detach())
    pair, inputs, scale, r = random_pair(parts, 3), random(4, 3), 0.7, 2
    gains = [b_NR @ pair.a_RK[i * r : (i + 1) * r] for i, b_NR in enumerate(pair.bs_NR)]
    merged = F.linear(inputs, base.weight_NK + scale * torch.cat(gains), base.bias_N)
    ours = linear(inputs, base, pair, scale)
    torch.testing.assert_close(ours, merged, rtol=0, atol=1e-13)
    leaves = (inputs, pair.a_RK, *pair.bs_NR)
    for mine, theirs in zip(
        torch.autograd.grad(ours.square().sum(), leaves),
        torch.autograd.grad(merged.square().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["bf16", "int8", "nf4"])
def test_gradients_through_rounded_weights_are_those_through_the_same_weights_in_fp32(kind: StorageKind):
    base = torch.randn(200, 130, generator=torch.Generator().manual_seed(0))
    rounded = stored(base, kind)
    pair, inputs = random_pair((120, 80), 130), random(50, 130)
    leaves = [tensor.detach().float().requires_grad_() for tensor in (inputs, pair.a_RK, *pair.bs_NR)]

    def gradients(weight_NK: Matrix) -> tuple[torch.Tensor, ...]:
        inputs, a_RK, *bs_NR = leaves
        output = linear(inputs, Linear(weight_NK=weight_NK), LoraPair(a_RK=a_RK, bs_NR=tuple(bs_NR)), 0.7)
        return torch.autograd.grad(output.square().sum(), leaves)

    for mine, theirs in zip(gradients(rounded), gradients(dense_of(rounded).float()), strict=True):
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_a_linear_layer_without_lora_is_the_base():
    base = Linear(weight_NK=random(5, 3).detach())
    inputs = random(2, 3, seed=1)
    assert torch.equal(linear(inputs, base, None, 0.0), inputs @ base.weight_NK.T)


def test_an_input_without_gradient_still_trains_the_adapter():
    """The first layer's input is an embedding, which is frozen."""
    base, pair = Linear(weight_NK=random(5, 3, seed=2).detach()), random_pair((5,), 3)
    frozen, followed = random(4, 3).detach(), random(4, 3)
    grads = [
        torch.autograd.grad(linear(inputs, base, pair, 0.7).square().sum(), (pair.a_RK, *pair.bs_NR))
        for inputs in (frozen, followed)
    ]
    for mine, theirs in zip(*grads, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 6)])
def test_gradient_of_rms_norm_is_its_finite_difference(shape: tuple[int, ...]):
    weight_H = random(6, seed=3).detach()
    assert torch.autograd.gradcheck(lambda inputs: rms_norm(inputs, weight_H, 1e-5), (random(*shape),))


def test_rms_norm_is_that_of_torch():
    inputs, weight_H = random(4, 6), random(6, seed=3).detach()
    torch.testing.assert_close(
        rms_norm(inputs, weight_H, 1e-5), F.rms_norm(inputs, (6,), weight_H, 1e-5), rtol=0, atol=1e-14
    )


def test_rms_norm_of_zeros_is_zero_and_has_a_finite_gradient():
    inputs = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    output = rms_norm(inputs, torch.ones(6, dtype=torch.float64), 1e-5)
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    assert torch.equal(output, torch.zeros(2, 6, dtype=torch.float64))
    torch.testing.assert_close(gradient, torch.full((2, 6), 1e-5**-0.5, dtype=torch.float64))


def test_gradient_of_swiglu_is_its_finite_difference():
    assert torch.autograd.gradcheck(swiglu, (random(3, 8),))


def test_swiglu_by_hand():
    """silu(1) * 3 = 3 / (1 + e^-1) = 2.1932."""
    output = swiglu(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(output, torch.tensor([[2.19318]]))


def test_gradient_of_a_rotation_is_its_finite_difference():
    angles = random(3, 1, 2, seed=4).detach()
    for size in (4, 7):  # all of a head, and a part of it
        inputs = (random(3, 2, size),)
        assert torch.autograd.gradcheck(lambda inputs: rotate(inputs, angles.cos(), angles.sin()), inputs)


def test_a_quarter_turn_by_hand():
    """The first half is turned towards the second: (1, 0) becomes (0, 1), and (0, 1) becomes (-1, 0)."""
    cos, sin = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    assert rotate(torch.tensor([[[1.0, 0.0]]]), cos, sin).tolist() == [[[0.0, 1.0]]]
    assert rotate(torch.tensor([[[0.0, 1.0]]]), cos, sin).tolist() == [[[-1.0, 0.0]]]


def gradients_of_two_trees(recompute: Recompute | None) -> tuple[torch.Tensor, ...]:
    """The hidden states of a decoder of five layers, and the gradients of all its trained tensors."""
    spec = replace(tiny_spec(), num_layers=5)
    decoder, adapter = tiny_decoder(spec), tiny_adapter(spec)
    forest = grow([(1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7)])
    hidden_TH = decoder.hidden(
        torch.tensor(forest.token_ids),
        torch.tensor(forest.positions),
        lambda _, queries, keys, values: tree_attention(queries, keys, values, forest.nodes),
        adapter,
        recompute=recompute,
    )
    torch.autograd.backward(hidden_TH.square().sum())
    gradients = [tensor.grad for tensor in adapter.named_tensors().values()]
    return (hidden_TH.detach(), *(gradient for gradient in gradients if gradient is not None))


@pytest.mark.parametrize("every", [1, 2, 5])
def test_computing_layers_again_changes_no_bit(every: int):
    kept, again = gradients_of_two_trees(None), gradients_of_two_trees(Recompute(every=every))
    assert len(kept) == 1 + 5 * 11
    for mine, theirs in zip(kept, again, strict=True):
        assert torch.equal(mine, theirs)


def test_inputs_saved_in_bf16_leave_the_output_alone_and_move_gradients_by_less_than_a_percent():
    exact, rounded = gradients_of_two_trees(None), gradients_of_two_trees(Recompute(every=1, saved_inputs="bf16"))
    assert torch.equal(exact[0], rounded[0])
    for mine, theirs in zip(exact[1:], rounded[1:], strict=True):
        assert 0 < (mine - theirs).norm() < 0.01 * mine.norm()
