"""The pieces of a decoder layer, each with a backward that saves only what it cannot cheaply compute again."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from groat.kernels import ops
from groat.kernels.matrix import Matrix
from groat.kernels.ops import adapted_product, product, straight_product
from groat.model.backward import with_gradient
from groat.model.lora import LoraPair
from groat.model.spec import LongRopeScaling, ModelSpec
from groat.model.weights import Linear

Prepare = Callable[[torch.Tensor], torch.Tensor]
"""What a linear layer does to its input first; cheap, so backward does it again rather than keep the result."""


class _AdaptedLinear(torch.autograd.Function):
    """`x W' + bias + scale * x A' B'` part by part, with x = prepare(input).

    Saves the input (which the residual stream or attention holds anyway) and the small x A', never a merged weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input_TI: torch.Tensor,
        prepare: Prepare | None,
        weight_NK: Matrix,
        bias_N: torch.Tensor | None,
        scale: float,
        *pair: torch.Tensor,
    ) -> torch.Tensor:
        output_TN, down_TR = _adapted(input_TI, prepare, weight_NK, bias_N, scale, pair)
        ctx.save_for_backward(input_TI, down_TR, *pair)
        ctx.prepare, ctx.weight_NK, ctx.scale = prepare, weight_NK, scale
        return output_TN

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_TN,) = grads
        input_TI, down_TR, *pair = ctx.saved_tensors
        input_TI = input_TI.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            prepared_TK = input_TI if ctx.prepare is None else ctx.prepare(input_TI)
        grad_down_TR, grad_pair = _pair_gradients(grad_TN, prepared_TK.detach(), down_TR, pair, ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, *grad_pair
        grad_prepared_TK = straight_product(grad_TN, ctx.weight_NK)
        if grad_down_TR is not None:
            grad_prepared_TK.addmm_(grad_down_TR, pair[0])
        if ctx.prepare is None:
            return grad_prepared_TK, None, None, None, None, *grad_pair
        (grad_input_TI,) = torch.autograd.grad(with_gradient(prepared_TK, grad_prepared_TK), input_TI)
        return grad_input_TI, None, None, None, None, *grad_pair


def _adapted(
    input_TI: torch.Tensor,
    prepare: Prepare | None,
    weight_NK: Matrix,
    bias_N: torch.Tensor | None,
    scale: float,
    pair: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The layer's output and `x A'`; `pair` is A and the B's, or empty."""
    prepared_TK = input_TI if prepare is None else prepare(input_TI)
    if not pair:
        return product(prepared_TK, weight_NK, bias_N), None
    a_RK, *bs_NR = pair
    return adapted_product(prepared_TK, weight_NK, bias_N, a_RK, bs_NR, scale)


def _pair_gradients(
    grad_TN: torch.Tensor,
    prepared_TK: torch.Tensor,
    down_TR: torch.Tensor | None,
    pair: Sequence[torch.Tensor],
    scale: float,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """The gradient of `x A'`, and those of A and the B's."""
    if down_TR is None:
        return None, []
    _, *bs_NR = pair
    grad_down_TR = torch.empty_like(down_TR)
    grad_bs: list[torch.Tensor] = []
    grad_downs = grad_down_TR.split(bs_NR[0].shape[1], dim=1)
    for (grad, down, b_NR), grad_down in zip(_parts(grad_TN, down_TR, bs_NR), grad_downs, strict=True):
        grad_down.copy_(grad @ b_NR)
        grad_bs.append((grad.T @ down).mul_(scale))
    grad_down_TR.mul_(scale)
    return grad_down_TR, [grad_down_TR.T @ prepared_TK, *grad_bs]


def _parts(
    output_TN: torch.Tensor, down_TR: torch.Tensor, bs_NR: Sequence[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per part of a fused layer: its columns of the output, of `x A'`, and its B."""
    outputs = output_TN.split([b_NR.shape[0] for b_NR in bs_NR], dim=1)
    downs = down_TR.split(bs_NR[0].shape[1], dim=1)
    return list(zip(outputs, downs, bs_NR, strict=True))


def linear(
    input_TI: torch.Tensor, base: Linear, pair: LoraPair | None, scale: float, prepare: Prepare | None = None
) -> torch.Tensor:
    """A frozen linear layer of `prepare(input)` with its adapter beside it; `pair` None is the base alone."""
    tensors = () if pair is None else (pair.a_RK, *pair.bs_NR)
    if not torch.is_grad_enabled():
        return _adapted(input_TI, prepare, base.weight_NK, base.bias_N, scale, tensors)[0]
    return cast(torch.Tensor, _AdaptedLinear.apply(input_TI, prepare, base.weight_NK, base.bias_N, scale, *tensors))


class _RMSNorm(torch.autograd.Function):
    """Saves the input and one number per row."""

    @staticmethod
    def forward(ctx: Any, input_XH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
        normed = ops.rms_norm(input_XH, weight_H, epsilon)
        ctx.save_for_backward(input_XH, weight_H, normed.inverse_X1)
        return normed.output_XH

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        input_XH, weight_H, inverse_X1 = ctx.saved_tensors
        return ops.rms_norm_gradient(grads[0], input_XH, weight_H, inverse_X1), None, None


def rms_norm(input_XH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Differentiable root-mean-square norm over the last dimension (arXiv:1910.07467)."""
    if not torch.is_grad_enabled():
        return ops.rms_norm(input_XH, weight_H, epsilon).output_XH
    return cast(torch.Tensor, _RMSNorm.apply(input_XH, weight_H, epsilon))


class _SwiGLU(torch.autograd.Function):
    """Saves gate and up as they came; silu is computed again in backward."""

    @staticmethod
    def forward(ctx: Any, gate_up_TI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up_TI)
        return ops.swiglu(gate_up_TI)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (gate_up_TI,) = ctx.saved_tensors
        return ops.swiglu_gradient(grads[0], gate_up_TI)


def swiglu(gate_up_TI: torch.Tensor) -> torch.Tensor:
    """Differentiable silu(gate) * up, the two lying side by side (arXiv:2002.05202)."""
    if not torch.is_grad_enabled():
        return ops.swiglu(gate_up_TI)
    return cast(torch.Tensor, _SwiGLU.apply(gate_up_TI))


class _Rotate(torch.autograd.Function):
    """A rotation saves nothing of its input: backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos_T1E, sin_T1E)
        return ops.rotate(input_TAD, cos_T1E, sin_T1E, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos_T1E, sin_T1E = ctx.saved_tensors
        return ops.rotate(grads[0], cos_T1E, sin_T1E, back=True), None, None


def rotate(input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
    """Differentiable rotary position embedding (arXiv:2104.09864), halves paired as Hugging Face stores them.

    Of each head the first 2 E numbers are turned.
    """
    if not torch.is_grad_enabled():
        return ops.rotate(input_TAD, cos_T1E, sin_T1E, back=False)
    return cast(torch.Tensor, _Rotate.apply(input_TAD, cos_T1E, sin_T1E))


def rotation(spec: ModelSpec, positions_T: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What `rotate` takes for tokens at these positions: cosines and sines [T, 1, E]."""
    angles_T1E = (positions_T[:, None].double() * rotary_frequencies(spec))[:, None, :]
    factor = spec.rope_scaling.attention_factor if isinstance(spec.rope_scaling, LongRopeScaling) else 1.0
    return angles_T1E.cos().mul_(factor).to(dtype), angles_T1E.sin().mul_(factor).to(dtype)


@functools.lru_cache(maxsize=4)
def rotary_frequencies(spec: ModelSpec) -> torch.Tensor:
    """Radians per position of each of the rotary_size / 2 planes, scaled where the model says so; float64."""
    exponents_E = torch.arange(0, spec.rotary_size, 2, dtype=torch.float64) / spec.rotary_size
    # Rounded as transformers rounds them, so that long positions agree.
    periods_E = spec.rope_theta ** exponents_E.float()
    scaling = spec.rope_scaling
    if isinstance(scaling, LongRopeScaling):
        return (1.0 / (torch.tensor(scaling.short_factors) * periods_E)).double()
    frequencies_E = (1.0 / periods_E).double()
    if scaling is None:
        return frequencies_E
    turns_E = scaling.original_max_position_embeddings * frequencies_E / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep_E = ((turns_E - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies_E * (keep_E + (1 - keep_E) / scaling.factor)
