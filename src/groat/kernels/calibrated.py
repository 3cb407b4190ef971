"""Rounding to NF4 with what a matrix's inputs are like in mind: in the same format and size, with less damage.

What matters of the inputs is their second moments E[x x'], kept as a diagonal plus a few directions. Two things use
them. Each block's scale is the one with the least weighted error, not the block's largest weight. And what a row's
rounding adds to the output along the directions is answered by the columns that are rounded later; for moments of this
form that answer is optimal (it is GPTQ's, arXiv:2210.17323), and it takes a few operations per weight and no [K, K]
matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groat.kernels.codes import nf4_code
from groat.kernels.native import native_for
from groat.kernels.nf4 import NF4Matrix, doubly_quantized, packed_nf4
from groat.kernels.quantized import BLOCK

_FACTORS = tuple(percent / 100 for percent in range(60, 112, 4))
"""Of a block's largest weight: the scales that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputMoments:
    """E[x x'] of a matrix's inputs, up to a factor: `diag(diagonal) + directions directions'`."""

    diagonal_K: torch.Tensor
    """Above zero."""
    directions_KD: torch.Tensor

    def total(self) -> torch.Tensor:
        """E[x^2]."""
        return self.diagonal_K + self.directions_KD.square().sum(1)

    @classmethod
    def alike(cls, num_inputs: int) -> InputMoments:
        """Inputs of which nothing is known."""
        return cls(diagonal_K=torch.ones(num_inputs), directions_KD=torch.zeros(num_inputs, 1))


def to_calibrated_nf4(weight_NK: torch.Tensor, moments: InputMoments) -> NF4Matrix:
    """NF4 of the same layout and size as `to_nf4`, rounded for these inputs; holds a byte per weight meanwhile."""
    weight_NK = weight_NK.float().contiguous()
    doubled = doubly_quantized(_best_scales(weight_NK, moments.total()))
    # Rounded for the scales as products will see them.
    codes_NK = _codes(weight_NK, doubled.of(torch.arange(len(doubled.codes))), moments)
    rows, columns = weight_NK.shape
    return NF4Matrix(num_rows=rows, num_columns=columns, packed=packed_nf4(codes_NK.flatten()), scales=doubled)


def _best_scales(weight_NK: torch.Tensor, importance_K: torch.Tensor) -> torch.Tensor:
    """One scale per block."""
    importance_K, factors = importance_K.float().contiguous(), torch.tensor(_FACTORS)
    if (native := native_for(weight_NK, importance_K)) is None:
        return _best_scales_by_torch(weight_NK, importance_K, factors)
    scales = torch.empty(-(-weight_NK.numel() // BLOCK))
    native.groat_nf4_scales(
        *(weight_NK.data_ptr(), weight_NK.numel(), importance_K.data_ptr(), weight_NK.shape[1]),
        *(nf4_code().data_ptr(), factors.data_ptr(), len(factors), scales.data_ptr(), torch.get_num_threads()),
    )
    return scales


def _best_scales_by_torch(weight_NK: torch.Tensor, importance_K: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    empty = -weight_NK.numel() % BLOCK
    whole = torch.nn.functional.pad(weight_NK.flatten(), (0, empty)).view(-1, BLOCK)
    importances = torch.nn.functional.pad(importance_K.repeat(weight_NK.shape[0]), (0, empty)).view(-1, BLOCK)
    largest = whole.abs().amax(1)
    best, least = largest.clone(), torch.full_like(largest, torch.inf)
    for factor in factors:
        scales = (largest * factor).clamp(min=1e-38)[:, None]
        rounded = nf4_code()[_nearest_codes(whole / scales)] * scales
        errors = (rounded - whole).square_().mul_(importances).sum(1)
        better = (errors < least) & (largest > 0)
        best, least = torch.where(better, scales[:, 0], best), torch.where(better, errors, least)
    return best


def _codes(weight_NK: torch.Tensor, scales: torch.Tensor, moments: InputMoments) -> torch.Tensor:
    """The number of each weight's NF4 value, [N, K] bytes."""
    order_K = moments.total().argsort(descending=True, stable=True)
    directions_KD, answers_KD = moments.directions_KD.float().contiguous(), _answers(moments, order_K)
    if (native := native_for(weight_NK, scales, directions_KD, answers_KD)) is None:
        return _codes_by_torch(weight_NK, scales, order_K, directions_KD, answers_KD)
    codes_NK = torch.empty(weight_NK.shape, dtype=torch.uint8)
    native.groat_nf4_feedback(
        *(weight_NK.data_ptr(), *weight_NK.shape, scales.data_ptr(), nf4_code().data_ptr(), order_K.data_ptr()),
        *(directions_KD.data_ptr(), answers_KD.data_ptr(), directions_KD.shape[1]),
        *(codes_NK.data_ptr(), torch.get_num_threads()),
    )
    return codes_NK


def _codes_by_torch(
    weight_NK: torch.Tensor,
    scales: torch.Tensor,
    order_K: torch.Tensor,
    directions_KD: torch.Tensor,
    answers_KD: torch.Tensor,
) -> torch.Tensor:
    rows, columns = weight_NK.shape
    codes_NK = torch.empty(rows, columns, dtype=torch.uint8)
    added_ND = weight_NK.new_zeros(rows, directions_KD.shape[1])
    row_starts_N = torch.arange(rows) * columns
    for column in order_K.tolist():
        scales_N, weights_N = scales[(row_starts_N + column) // BLOCK], weight_NK[:, column]
        relative_N = torch.where(scales_N > 0, (weights_N - added_ND @ answers_KD[column]) / scales_N, 0.0)
        codes_N = _nearest_codes(relative_N)
        added_ND += (nf4_code()[codes_N] * scales_N - weights_N)[:, None] * directions_KD[column]
        codes_NK[:, column] = codes_N
    return codes_NK


def _answers(moments: InputMoments, order_K: torch.Tensor) -> torch.Tensor:
    """How much of what was added along each direction a column takes on when it is rounded.

    With d the diagonal, u the directions and z what was added, a rounding error e of the column costs
    d e^2 + (z + u e)' M (z + u e), where M = (1 + sum of u u' / d over the columns after it)^-1 counts that those
    will answer in their turn. The least is at e = -u' M z / (d + u' M u).
    """
    diagonal_K, directions_KD = moments.diagonal_K[order_K].double(), moments.directions_KD[order_K].double()
    outer_KDD = directions_KD[:, :, None] * directions_KD[:, None, :] / diagonal_K[:, None, None]
    after_KDD = outer_KDD.flip(0).cumsum(0).flip(0) - outer_KDD
    inverse_KDD = torch.linalg.inv(after_KDD + torch.eye(directions_KD.shape[1], dtype=torch.float64))
    weighted_KD = (inverse_KDD @ directions_KD[:, :, None])[:, :, 0]
    answers_KD = weighted_KD / (diagonal_K + (directions_KD * weighted_KD).sum(1))[:, None]
    return torch.empty_like(answers_KD).index_copy_(0, order_K, answers_KD).float()


def _nearest_codes(relative: torch.Tensor) -> torch.Tensor:
    code = nf4_code()
    return torch.bucketize(relative, (code[:-1] + code[1:]) / 2)
