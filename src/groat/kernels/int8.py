"""Frozen weights in 8 bits: a scale for 128 inputs of an output, turned first so that none of them is large."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch

from groat.kernels.huge_pages import Empty, ordinary
from groat.kernels.native import MatrixView, native_for
from groat.kernels.quantized import BLOCK, SMALLEST, Rows, check_finite, rows_in_ranges
from groat.types import Compute

_PAIR = 2
"""Blocks that share a scale in int8; a last one may be alone."""
TILE_OUTPUTS, GROUP = 32, 4
"""Outputs of a tile of int8 weights, and inputs of each that lie side by side: those of int8.h."""
INT8_TILES = 2
"""The kind of these matrices in linear.cpp."""


@functools.cache
def hadamard() -> torch.Tensor:
    """The orthogonal matrix of 64 rows whose entries are 1/8 and -1/8 (Sylvester's); symmetric, its own inverse."""
    matrix = torch.ones(1, 1)
    while len(matrix) < BLOCK:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / BLOCK**0.5


def turned(input_XK: torch.Tensor) -> torch.Tensor:
    """Rows in blocks [X, B, 64], each times the Hadamard matrix: a few large values become many middling ones (QuIP#,
    arXiv:2402.04396). Products of two rows stay what they were, if both are turned."""
    blocks_XBK = torch.nn.functional.pad(input_XK, (0, -input_XK.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    return blocks_XBK @ hadamard().to(input_XK.dtype)


def rounded(input_XK: torch.Tensor) -> torch.Tensor:
    """Activations [X, K] as products with int8 weights in int8 see them."""
    values_XBK = rounded_blocks(turned(input_XK), sharing=_PAIR) @ hadamard().to(input_XK.dtype)
    return values_XBK.flatten(1)[:, : input_XK.shape[1]]


def rounded_blocks(blocks_XBK: torch.Tensor, *, sharing: int = 1) -> torch.Tensor:
    """A scale per row for every block, or so many that share it, 127 steps either side of zero."""
    largest = _largest(blocks_XBK, sharing).repeat_interleave(sharing, -1)[..., : blocks_XBK.shape[-2], None]
    steps = torch.where(largest > 0, 127 / largest, 0.0)
    return (blocks_XBK * steps).round_().mul_(largest / 127)


def _largest(blocks_XBK: torch.Tensor, sharing: int) -> torch.Tensor:
    """The largest magnitude of every so many blocks, [X, B / sharing]."""
    largest_XB = blocks_XBK.abs().amax(-1)
    whole_XB = torch.nn.functional.pad(largest_XB, (0, -largest_XB.shape[-1] % sharing))
    return whole_XB.unflatten(-1, (-1, sharing)).amax(-1)


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A frozen matrix [N, K] in blocks of 64 inputs that are turned, then two by two rounded to a bf16 scale: a byte a
    weight.

    They lie as the kernels read them: output n and input k of a block b are `tiles[n // 32, b, k // 4, n % 32, k % 4]`,
    a value + 128; outputs past N and inputs past K count as zeros.
    """

    tiles: torch.Tensor
    scales: torch.Tensor
    """[N / 32, pairs of blocks, 32], bf16."""
    num_rows: int
    num_columns: int
    compute: Compute = "f32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.num_columns

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.tiles, self.scales

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows by number, [T, K], fp32."""
        if native := native_for(self.scales.new_empty(0, dtype=torch.float32)):
            ids_T, rows_TK = ids_T.contiguous(), torch.empty(len(ids_T), self.num_columns)
            native.groat_int8_rows(ctypes.addressof(self.view), ids_T.data_ptr(), len(ids_T), rows_TK.data_ptr())
            return rows_TK
        tile_T, place_T = ids_T // TILE_OUTPUTS, ids_T % TILE_OUTPUTS
        values_TBK = self.tiles[tile_T, :, :, place_T].flatten(2).float().sub_(128)
        scales_TP = self.scales[tile_T, :, place_T].float()
        values_TBK *= scales_TP.repeat_interleave(_PAIR, 1)[:, : values_TBK.shape[1], None]
        return (values_TBK @ hadamard()).flatten(1)[:, : self.num_columns]

    @functools.cached_property
    def view(self) -> MatrixView:
        return MatrixView.of(INT8_TILES, self.shape, self.tiles, scales=self.scales, in_int8=self.compute == "int8")


@dataclass(frozen=True, eq=False)
class RowInt8Matrix:
    """A frozen matrix [N, K], `values_NK * scales_N`, as LLM.int8 checkpoints have it (arXiv:2208.07339)."""

    values_NK: torch.Tensor
    scales_N: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.values_NK.shape[0], self.values_NK.shape[1]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.values_NK, self.scales_N

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows by number, [T, K], fp32."""
        return self.values_NK[ids_T].float().mul_(self.scales_N[ids_T, None])

    @functools.cached_property
    def view(self) -> MatrixView:
        return MatrixView.of(5, self.shape, self.values_NK, scales=self.scales_N)


def to_int8(weight_NK: torch.Tensor) -> Int8Matrix:
    """Turn and round to 127 steps either side of zero, the largest of each block at the end."""
    return int8_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


def int8_of(shape: tuple[int, int], ranges: Rows, empty: Empty = ordinary) -> Int8Matrix:
    """`to_int8` of rows that come a few at a time. NotFiniteError for infinities and NaN."""
    (rows, columns), num_blocks = shape, -(-shape[1] // BLOCK)
    tiles = empty((-(-rows // TILE_OUTPUTS), num_blocks, BLOCK // GROUP, TILE_OUTPUTS, GROUP), torch.uint8)
    scales = empty((len(tiles), -(-num_blocks // _PAIR), TILE_OUTPUTS), torch.bfloat16)
    first = 0
    for some in ranges:
        end = first + -(-len(some) // TILE_OUTPUTS)
        _round_blocks(some, tiles[first:end], scales[first:end])
        first = end
    return Int8Matrix(tiles, scales, rows, columns)


def _round_blocks(weight_NK: torch.Tensor, tiles: torch.Tensor, scales: torch.Tensor) -> None:
    """Fill `tiles` and `scales`."""
    weight_NK = weight_NK if weight_NK.dtype == torch.bfloat16 else weight_NK.float()
    if native := native_for():
        weight_NK = weight_NK.contiguous()
        native.groat_to_int8(
            *(weight_NK.data_ptr(), int(weight_NK.dtype == torch.bfloat16), *weight_NK.shape),
            *(tiles.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
        )
        check_finite(scales)
        return
    weight_NK = weight_NK.float()
    blocks_NBK = turned(torch.nn.functional.pad(weight_NK, (0, 0, 0, -len(weight_NK) % TILE_OUTPUTS)))
    largest_NP = _largest(blocks_NBK, _PAIR)
    check_finite(largest_NP)
    scales_NP, num_blocks = _bf16_above(largest_NP / 127), tiles.shape[1]
    # Blocks of zeros have the scale 0 and stay zeros.
    divisors_NP = scales_NP.float().clamp_(min=SMALLEST)
    blocks_NBK.div_(divisors_NP.repeat_interleave(_PAIR, 1)[:, :num_blocks, None]).round_().add_(128)
    values = blocks_NBK.to(torch.uint8).view(-1, TILE_OUTPUTS, num_blocks, BLOCK // GROUP, GROUP)
    tiles.copy_(values.permute(0, 2, 3, 1, 4))
    scales.copy_(scales_NP.view(-1, TILE_OUTPUTS, scales.shape[1]).transpose(1, 2))


def _bf16_above(values: torch.Tensor) -> torch.Tensor:
    """The next bf16 number that is not smaller; of numbers not below 0."""
    return ((values.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)
