"""The pieces of a decoder layer, each with a backward that saves only what it cannot cheaply compute again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F

from groat.model.lora import LoraPair
from groat.model.spec import ModelSpec
from groat.model.weights import Linear

Prepare = Callable[[torch.Tensor], torch.Tensor]
"""What a linear layer does to its input first; cheap, so backward does it again rather than keep the result."""


class _LoraLinear(torch.autograd.Function):
    """`x W' + bias + scale * x A' B'` part by part, with x = prepare(input).

    Saves the input (which the residual stream or attention holds anyway) and the small x A', never a merged weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input_TI: torch.Tensor,
        prepare: Prepare | None,
        weight_NK: torch.Tensor,
        bias_N: torch.Tensor | None,
        scale: float,
        a_RK: torch.Tensor,
        *bs_NR: torch.Tensor,
    ) -> torch.Tensor:
        prepared_TK = input_TI if prepare is None else prepare(input_TI)
        output_TN = F.linear(prepared_TK, weight_NK, bias_N)
        down_TR = F.linear(prepared_TK, a_RK)
        for output, down, b_NR in _parts(output_TN, down_TR, bs_NR):
            output.addmm_(down, b_NR.T, alpha=scale)
        ctx.save_for_backward(input_TI, down_TR, weight_NK, a_RK, *bs_NR)
        ctx.prepare, ctx.scale = prepare, scale
        return output_TN

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_TN,) = grads
        input_TI, down_TR, weight_NK, a_RK, *bs_NR = ctx.saved_tensors
        input_TI = input_TI.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            prepared_TK = input_TI if ctx.prepare is None else ctx.prepare(input_TI)
        grad_down_TR = torch.empty_like(down_TR)
        grad_bs: list[torch.Tensor] = []
        grad_downs = grad_down_TR.split(bs_NR[0].shape[1], dim=1)
        for (grad, down, b_NR), grad_down in zip(_parts(grad_TN, down_TR, bs_NR), grad_downs, strict=True):
            grad_down.copy_(grad @ b_NR)
            grad_bs.append((grad.T @ down).mul_(ctx.scale))
        grad_down_TR.mul_(ctx.scale)
        grad_a_RK = grad_down_TR.T @ prepared_TK.detach()
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None, grad_a_RK, *grad_bs
        grad_prepared_TK = (grad_TN @ weight_NK).addmm_(grad_down_TR, a_RK)
        if ctx.prepare is None:
            return grad_prepared_TK, None, None, None, None, grad_a_RK, *grad_bs
        (grad_input_TI,) = torch.autograd.grad(prepared_TK, input_TI, grad_prepared_TK)
        return grad_input_TI, None, None, None, None, grad_a_RK, *grad_bs


def _parts(
    output_TN: torch.Tensor, down_TR: torch.Tensor, bs_NR: tuple[torch.Tensor, ...] | list[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Per part of a fused layer: its columns of the output, of `x A'`, and its B."""
    outputs = output_TN.split([b_NR.shape[0] for b_NR in bs_NR], dim=1)
    downs = down_TR.split(bs_NR[0].shape[1], dim=1)
    return list(zip(outputs, downs, bs_NR, strict=True))


def linear(
    input_TI: torch.Tensor, base: Linear, pair: LoraPair | None, scale: float, prepare: Prepare | None = None
) -> torch.Tensor:
    """A frozen linear layer of `prepare(input)` with its adapter beside it; `pair` None is the base alone."""
    if pair is None:
        return F.linear(input_TI if prepare is None else prepare(input_TI), base.weight_NK, base.bias_N)
    return cast(
        torch.Tensor,
        _LoraLinear.apply(input_TI, prepare, base.weight_NK, base.bias_N, scale, pair.a_RK, *pair.bs_NR),
    )


class _RMSNorm(torch.autograd.Function):
    """Saves the input and one number per row."""

    @staticmethod
    def forward(ctx: Any, input_XH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
        size = input_XH.shape[-1]
        inverse_X1 = (
            torch.linalg.vector_norm(input_XH, dim=-1, keepdim=True).square_().div_(size).add_(epsilon).rsqrt_()
        )
        ctx.save_for_backward(input_XH, weight_H, inverse_X1)
        return (input_XH * inverse_X1).mul_(weight_H)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad_XH,) = grads
        input_XH, weight_H, inverse_X1 = ctx.saved_tensors
        weighted_XH = grad_XH * weight_H
        along_X1 = (weighted_XH * input_XH).mean(-1, keepdim=True).mul_(inverse_X1.square())
        return weighted_XH.addcmul_(input_XH, along_X1, value=-1).mul_(inverse_X1), None, None


def rms_norm(input_XH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square norm over the last dimension (arXiv:1910.07467)."""
    return cast(torch.Tensor, _RMSNorm.apply(input_XH, weight_H, epsilon))


class _SwiGLU(torch.autograd.Function):
    """Saves gate and up as they came; silu is computed again in backward."""

    @staticmethod
    def forward(ctx: Any, gate_up_TI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_up_TI)
        gate, up = gate_up_TI.chunk(2, dim=1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (grad_TI,) = grads
        (gate_up_TI,) = ctx.saved_tensors
        gate, up = gate_up_TI.chunk(2, dim=1)
        grad_gate_up = torch.empty_like(gate_up_TI)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
        torch.mul(grad_TI, F.silu(gate), out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad_TI * up, gate))
        return grad_gate_up


def swiglu(gate_up_TI: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, the two lying side by side (arXiv:2002.05202)."""
    return cast(torch.Tensor, _SwiGLU.apply(gate_up_TI))


class _Rotate(torch.autograd.Function):
    """A rotation saves nothing of its input: backward turns the other way."""

    @staticmethod
    def forward(ctx: Any, input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos_T1E, sin_T1E)
        return _rotated(input_TAD, cos_T1E, sin_T1E)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos_T1E, sin_T1E = ctx.saved_tensors
        return _rotated(grads[0], cos_T1E, -sin_T1E), None, None


def _rotated(input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
    first, second = input_TAD.chunk(2, dim=-1)
    output_TAD = input_TAD.new_empty(input_TAD.shape)
    out_first, out_second = output_TAD.chunk(2, dim=-1)
    torch.mul(first, cos_T1E, out=out_first).addcmul_(second, sin_T1E, value=-1)
    torch.mul(second, cos_T1E, out=out_second).addcmul_(first, sin_T1E)
    return output_TAD


def rotate(input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (arXiv:2104.09864), halves paired as Hugging Face stores them."""
    return cast(torch.Tensor, _Rotate.apply(input_TAD, cos_T1E, sin_T1E))


def rotary_frequencies(spec: ModelSpec) -> torch.Tensor:
    """Radians per position of each of the head_dim / 2 planes, with Llama 3's scaling where there is one; float64."""
    exponents_E = torch.arange(0, spec.head_dim, 2, dtype=torch.float64) / spec.head_dim
    # Rounded as transformers rounds them, so that long positions agree.
    frequencies_E = (1.0 / (spec.rope_theta ** exponents_E.float())).double()
    scaling = spec.rope_scaling
    if scaling is None:
        return frequencies_E
    turns_E = scaling.original_max_position_embeddings * frequencies_E / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep_E = ((turns_E - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies_E * (keep_E + (1 - keep_E) / scaling.factor)
