"""Matrix products and the elementwise work between them, each by a compiled kernel or by torch. No gradients here."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from groat.kernels.int8 import INT8_TILES, Int8Matrix, rounded
from groat.kernels.matrix import Matrix, plain_parts, view_of
from groat.kernels.native import MatrixView, native_for
from groat.kernels.nf4 import NF4_ROWS
from groat.kernels.quantized import BLOCK
from groat.kernels.rooms import room_like

_MANY_ROWS = 512
"""From here on torch's products of plain fp32 matrices are as fast as ours."""
_ROW_IN_BFLOAT16 = 256
"""fp32 numbers in whose place the kernels put a row of a gradient, a piece after the other."""


def product(
    input_TK: torch.Tensor, weight_NK: Matrix, bias_N: torch.Tensor | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x W' + bias, [T, N], in `out` if given. Where the kernels compute it, a row does not depend on the others."""
    output_TN = room_like(input_TK, input_TK.shape[0], weight_NK.shape[0]) if out is None else out
    if not _native_product(input_TK, weight_NK, output_TN, bias_N, transposed=True):
        if isinstance(weight_NK, Int8Matrix) and weight_NK.compute == "int8":
            input_TK = rounded(input_TK)
        for rows, part_NK in plain_parts(weight_NK):
            torch.mm(input_TK, part_NK.T, out=output_TN[:, rows])
        if bias_N is not None:
            output_TN += bias_N
    return output_TN


def straight_product(grad_TN: torch.Tensor, weight_NK: Matrix) -> torch.Tensor:
    """g W, [T, K]: the gradient of the input of x W'."""
    output_TK = room_like(grad_TN, grad_TN.shape[0], weight_NK.shape[1])
    grad_TN = grad_TN if grad_TN.stride(-1) == 1 else grad_TN.contiguous()
    if not _native_product(grad_TN, weight_NK, output_TK, None, transposed=False):
        output_TK.zero_()
        for rows, part_NK in plain_parts(weight_NK):
            output_TK.addmm_(grad_TN[:, rows], part_NK)
    return output_TK


def _native_product(
    input_TI: torch.Tensor, weight_NK: Matrix, output_TO: torch.Tensor, bias_N: torch.Tensor | None, *, transposed: bool
) -> bool:
    """Whether a compiled kernel did it."""
    many = input_TI.shape[0] >= _MANY_ROWS and isinstance(weight_NK, torch.Tensor) and weight_NK.dtype == torch.float32
    native = None if many else native_for(input_TI, output_TO, bias_N)
    view = view_of(weight_NK) if native else None
    if native is None or view is None:
        return False
    scratch = _scratch(input_TI, view)
    native.groat_product(
        *(ctypes.addressof(view), int(transposed), *_rows(input_TI, output_TO)),
        *(None if bias_N is None else bias_N.data_ptr(), scratch.data_ptr(), torch.get_num_threads()),
    )
    return True


def _scratch(input_TI: torch.Tensor, view: MatrixView) -> torch.Tensor:
    """What a product needs beside its result."""
    floats = _row_scratch(view, input_TI.shape[1])
    return room_like(input_TI, in_sixteens(input_TI.shape[0]), floats) if floats else input_TI.new_empty(0)


def in_sixteens(rows: int) -> int:
    """As many rows as the kernels round at one time, at least."""
    return -(-rows // 16) * 16


def _row_scratch(view: MatrixView, inner: int) -> int:
    """Numbers per row: for quantized weights, 34 for each block that is rounded (kept in 16 bits at most) or 256 in
    bf16, or 64 for one that is turned in fp32; and a turned gradient."""
    if view.kind not in (INT8_TILES, NF4_ROWS):
        return 0
    inner_blocks, column_blocks = (-(-size // BLOCK) for size in (inner, int(view.columns)))
    return max(34 * inner_blocks, _ROW_IN_BFLOAT16) + BLOCK * column_blocks


def scratch_floats(weight_NK: Matrix) -> int:
    """Numbers per row that a compiled product x W' needs beside its result."""
    view = view_of(weight_NK)
    return 0 if view is None else _row_scratch(view, weight_NK.shape[1])


def gradient_scratch_floats(weight_NK: Matrix, bs_NR: Sequence[torch.Tensor]) -> int:
    """Numbers per row that the compiled gradients of a layer with its adapter need beside their results."""
    view = view_of(weight_NK)
    return 0 if view is None else _row_scratch(view, weight_NK.shape[0]) + sum(-(-b.shape[1] // 32) * 32 for b in bs_NR)


class Adapted(NamedTuple):
    """What a layer with its adapter puts out, and the small product its backward needs again."""

    output_TN: torch.Tensor
    down_TR: torch.Tensor


def adapted_product(
    input_TK: torch.Tensor,
    weight_NK: Matrix,
    bias_N: torch.Tensor | None,
    a_RK: torch.Tensor,
    bs_NR: Sequence[torch.Tensor],
    scale: float,
) -> Adapted:
    """x W' + bias + scale * x A' B' part by part (LoRA, arXiv:2106.09685); down is x A'."""
    native, view = native_for(input_TK, bias_N, a_RK, *bs_NR), view_of(weight_NK)
    if native and view:
        return _native_adapted_product(native, view, input_TK, bias_N, a_RK, bs_NR, scale)
    output_TN, down_TR = product(input_TK, weight_NK, bias_N), product(input_TK, a_RK)
    first = 0
    for down, b_NR in zip(down_TR.split(bs_NR[0].shape[1], dim=1), bs_NR, strict=True):
        output_TN[:, first : first + b_NR.shape[0]].addmm_(down, b_NR.T, alpha=scale)
        first += b_NR.shape[0]
    return Adapted(output_TN, down_TR)


def _native_adapted_product(
    native: ctypes.CDLL,
    view: MatrixView,
    input_TK: torch.Tensor,
    bias_N: torch.Tensor | None,
    a_RK: torch.Tensor,
    bs_NR: Sequence[torch.Tensor],
    scale: float,
) -> Adapted:
    rows, parts, outputs = input_TK.shape[0], len(bs_NR), int(view.rows)
    output_TN, down_TR = room_like(input_TK, rows, outputs), input_TK.new_empty(rows, a_RK.shape[0])
    scratch = _scratch(input_TK, view)
    native.groat_adapted_product(
        *(ctypes.addressof(view), input_TK.data_ptr(), input_TK.stride(0)),
        *(output_TN.data_ptr(), rows, None if bias_N is None else bias_N.data_ptr(), a_RK.data_ptr()),
        *(down_TR.data_ptr(), (ctypes.c_void_p * parts)(*(b_NR.data_ptr() for b_NR in bs_NR))),
        *((ctypes.c_int64 * parts)(*(b_NR.shape[0] for b_NR in bs_NR)), parts, bs_NR[0].shape[1], scale),
        *(scratch.data_ptr(), torch.get_num_threads()),
    )
    return Adapted(output_TN, down_TR)


def _rows(input_TK: torch.Tensor, output_TN: torch.Tensor) -> tuple[int, int, int, int, int]:
    return input_TK.data_ptr(), input_TK.stride(0), output_TN.data_ptr(), output_TN.stride(0), input_TK.shape[0]


class TokenLogprobs(NamedTuple):
    """Per row of logits, in nats."""

    logprobs_C: torch.Tensor
    lse_C: torch.Tensor
    entropy_C: torch.Tensor


def token_logprobs(logits_CV: torch.Tensor, token_ids_C: torch.Tensor) -> TokenLogprobs:
    """Log-probs of the given tokens."""
    if (native := native_for(logits_CV)) is None:
        lse_C = logits_CV.logsumexp(-1)
        all_logprobs_CV = logits_CV - lse_C[:, None]
        logprobs_C = all_logprobs_CV.gather(1, token_ids_C[:, None])[:, 0]
        return TokenLogprobs(logprobs_C, lse_C, -torch.linalg.vecdot(all_logprobs_CV.exp(), all_logprobs_CV))
    logits_CV, token_ids_C = logits_CV.contiguous(), token_ids_C.contiguous()
    rows, vocabulary = logits_CV.shape
    found = TokenLogprobs(*(logits_CV.new_empty(rows) for _ in range(3)))
    native.groat_token_logprobs(
        *(logits_CV.data_ptr(), token_ids_C.data_ptr(), found.lse_C.data_ptr()),
        *(found.logprobs_C.data_ptr(), found.entropy_C.data_ptr(), rows, vocabulary, torch.get_num_threads()),
    )
    return found


def token_logprob_gradient_(
    logits_CV: torch.Tensor, token_ids_C: torch.Tensor, lse_C: torch.Tensor, grad_C: torch.Tensor
) -> None:
    """In place, logits become the gradient of sum(grad * log-prob) with respect to them."""
    if (native := native_for(logits_CV, lse_C, grad_C)) is None:
        logits_CV.sub_(lse_C[:, None]).exp_().mul_(-grad_C[:, None])
        logits_CV.scatter_add_(1, token_ids_C[:, None], grad_C[:, None])
        return
    assert logits_CV.is_contiguous(), "logits are changed where they are, row behind row"
    token_ids_C = token_ids_C.contiguous()
    native.groat_logprob_gradient(
        *(logits_CV.data_ptr(), token_ids_C.data_ptr(), lse_C.data_ptr(), grad_C.data_ptr()),
        *(*logits_CV.shape, torch.get_num_threads()),
    )


class Normed(NamedTuple):
    output_XH: torch.Tensor
    inverse_X1: torch.Tensor
    """One over each row's root mean square."""


def rms_norm(input_XH: torch.Tensor, weight_H: torch.Tensor, epsilon: float) -> Normed:
    """Root-mean-square norm over the last dimension (arXiv:1910.07467)."""
    *leading, size = input_XH.shape
    if (native := native_for(input_XH, weight_H)) is None:
        inverse_X1 = (
            torch.linalg.vector_norm(input_XH, dim=-1, keepdim=True).square_().div_(size).add_(epsilon).rsqrt_()
        )
        return Normed((input_XH * inverse_X1).mul_(weight_H), inverse_X1)
    rows = input_XH.reshape(-1, size)
    output, inverse = room_like(rows, *rows.shape), rows.new_empty(*leading, 1)
    native.groat_rms_norm(
        *(rows.data_ptr(), rows.stride(0), weight_H.data_ptr(), epsilon, output.data_ptr(), size, inverse.data_ptr()),
        *(len(rows), size, torch.get_num_threads()),
    )
    return Normed(output.view(input_XH.shape), inverse)


def rms_norm_gradient(
    grad_XH: torch.Tensor, input_XH: torch.Tensor, weight_H: torch.Tensor, inverse_X1: torch.Tensor
) -> torch.Tensor:
    """The gradient of the norm's input."""
    if (native := native_for(grad_XH, input_XH, weight_H)) is None:
        weighted_XH = grad_XH * weight_H
        along_X1 = (weighted_XH * input_XH).mean(-1, keepdim=True).mul_(inverse_X1.square())
        return weighted_XH.addcmul_(input_XH, along_X1, value=-1).mul_(inverse_X1)
    grad_XH, input_XH = grad_XH.contiguous(), input_XH.contiguous()
    output_XH = room_like(input_XH, *input_XH.shape)
    native.groat_rms_norm_backward(
        *(grad_XH.data_ptr(), input_XH.data_ptr(), weight_H.data_ptr(), inverse_X1.data_ptr(), output_XH.data_ptr()),
        *(inverse_X1.numel(), input_XH.shape[-1], torch.get_num_threads()),
    )
    return output_XH


def swiglu(gate_up_TI: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, the two lying side by side (arXiv:2002.05202)."""
    if (native := native_for(gate_up_TI)) is None:
        gate, up = gate_up_TI.chunk(2, dim=1)
        return F.silu(gate).mul_(up)
    gate_up_TI = gate_up_TI.contiguous()
    rows, size = gate_up_TI.shape[0], gate_up_TI.shape[1] // 2
    output = room_like(gate_up_TI, rows, size)
    native.groat_swiglu(gate_up_TI.data_ptr(), output.data_ptr(), rows, size, torch.get_num_threads())
    return output


def swiglu_gradient(grad_TI: torch.Tensor, gate_up_TI: torch.Tensor) -> torch.Tensor:
    """The gradient of gate and up, side by side."""
    grad_gate_up = room_like(gate_up_TI, *gate_up_TI.shape)
    if (native := native_for(grad_TI, gate_up_TI)) is None:
        gate, up = gate_up_TI.chunk(2, dim=1)
        grad_gate, grad_up = grad_gate_up.chunk(2, dim=1)
        torch.mul(grad_TI, F.silu(gate), out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad_TI * up, gate))
        return grad_gate_up
    grad_TI, gate_up_TI = grad_TI.contiguous(), gate_up_TI.contiguous()
    native.groat_swiglu_backward(
        *(grad_TI.data_ptr(), gate_up_TI.data_ptr(), grad_gate_up.data_ptr()),
        *(*grad_TI.shape, torch.get_num_threads()),
    )
    return grad_gate_up


def rotate(input_TAD: torch.Tensor, cos_T1E: torch.Tensor, sin_T1E: torch.Tensor, *, back: bool) -> torch.Tensor:
    """Rotary position embedding (arXiv:2104.09864), halves paired as Hugging Face stores them; `back` undoes it.

    The first 2 E numbers of each head are turned; the others stay.
    """
    tokens, heads, size = input_TAD.shape
    output_TAD = room_like(input_TAD, *input_TAD.shape)
    native = native_for(input_TAD, cos_T1E, sin_T1E)
    if native is None or input_TAD.stride(1) != size:
        sin_T1E = -sin_T1E if back else sin_T1E
        half = cos_T1E.shape[-1]
        first, second, _ = input_TAD.tensor_split([half, 2 * half], dim=-1)
        out_first, out_second, _ = output_TAD.tensor_split([half, 2 * half], dim=-1)
        output_TAD[..., 2 * half :] = input_TAD[..., 2 * half :]
        torch.mul(first, cos_T1E, out=out_first).addcmul_(second, sin_T1E, value=-1)
        torch.mul(second, cos_T1E, out=out_second).addcmul_(first, sin_T1E)
        return output_TAD
    native.groat_rotate(
        *(input_TAD.data_ptr(), input_TAD.stride(0), cos_T1E.data_ptr(), sin_T1E.data_ptr(), -1.0 if back else 1.0),
        *(output_TAD.data_ptr(), tokens, heads, size, cos_T1E.shape[-1], torch.get_num_threads()),
    )
    return output_TAD
