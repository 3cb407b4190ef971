"""Frozen weights in 4 bits: QLoRA's NormalFloat (arXiv:2305.14314) with blocks of 64 and double quantization.

Byte for byte as bitsandbytes stores it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from groat.kernels.codes import dynamic_code, dynamic_middles, nearest, nf4_code, nf4_middles
from groat.kernels.huge_pages import Empty, ordinary
from groat.kernels.native import MatrixView, native_for
from groat.kernels.quantized import BLOCK, SMALLEST, Rows, check_finite, rows_in_ranges
from groat.types import Compute

NF4_ROWS = 3
"""The kind of these matrices in linear.cpp."""
SCALE_BLOCK = 256
"""NF4 scales that share one scale of their own."""
_ZERO = 7
"""The NF4 code of 0."""


@dataclass(frozen=True, eq=False)
class PlainScales:
    """One fp32 scale for each block."""

    values: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.values,)

    def pointers(self) -> dict[str, torch.Tensor]:
        return {"scales": self.values}

    def of(self, blocks: torch.Tensor) -> torch.Tensor:
        """The scales of blocks by number."""
        return self.values[blocks]


@dataclass(frozen=True, eq=False)
class DoubleScales:
    """A byte for each block, and a scale and an offset for every 256 of them: `code[codes] * scales + offsets`.

    A matrix quantized whole has one offset; one made of parts, that of each.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.codes, self.scales, self.offsets

    def pointers(self) -> dict[str, torch.Tensor]:
        return {
            "scale_codes": self.codes,
            "scale_map": dynamic_code(),
            "scale_scales": self.scales,
            "scale_offsets": self.offsets,
        }

    def of(self, blocks: torch.Tensor) -> torch.Tensor:
        """The scales of blocks by number."""
        outer = blocks // SCALE_BLOCK
        return dynamic_code()[self.codes[blocks].long()].mul_(self.scales[outer]).add_(self.offsets[outer])


BlockScales = PlainScales | DoubleScales


@dataclass(frozen=True, eq=False)
class NF4Matrix:
    """A frozen matrix [N, K] in NF4: two elements a byte, the first in the high half, blocks over the flat whole."""

    num_rows: int
    num_columns: int
    packed: torch.Tensor
    scales: BlockScales
    compute: Compute = "f32"
    """In int8 if rows are whole blocks; else in f32 all the same."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.num_columns

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.packed, *self.scales.tensors()

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows by number, [T, K], fp32."""
        places = (ids_T[:, None] * self.num_columns + torch.arange(self.num_columns)).flatten()
        bytes_ = self.packed[places // 2].long()
        codes = torch.where(places % 2 == 0, bytes_ >> 4, bytes_ & 15)
        return self.scales.of(places // BLOCK).mul_(nf4_code()[codes]).view(len(ids_T), -1)

    @functools.cached_property
    def view(self) -> MatrixView:
        return MatrixView.of(
            NF4_ROWS,
            self.shape,
            self.packed,
            in_int8=self.compute == "int8",
            block=BLOCK,
            code=nf4_code(),
            **self.scales.pointers(),
        )


def to_nf4(weight_NK: torch.Tensor) -> NF4Matrix:
    """Quantize as bitsandbytes does with `quant_type="nf4"`, `blocksize=64`, `compress_statistics=True`."""
    return nf4_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


def nf4_of(shape: tuple[int, int], ranges: Rows, empty: Empty = ordinary) -> NF4Matrix:
    """`to_nf4` of rows that come a few at a time. NotFiniteError for infinities and NaN."""
    rows, columns = shape
    packed, scales = empty((-(-rows * columns // 2),), torch.uint8), torch.empty(-(-rows * columns // BLOCK))
    start = 0
    for some in ranges:
        values = some.flatten()
        end = start + len(values)
        _round_to_nf4(values, packed[start // 2 : (end + 1) // 2], scales[start // BLOCK : -(-end // BLOCK)])
        start = end
    check_finite(scales)
    return NF4Matrix(num_rows=rows, num_columns=columns, packed=packed, scales=doubly_quantized(scales))


def _round_to_nf4(values: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> None:
    """Fill `packed` and `scales`."""
    values = values if values.dtype == torch.bfloat16 else values.float()
    if native := native_for():
        native.groat_to_nf4(
            *(values.data_ptr(), int(values.dtype == torch.bfloat16), len(values), nf4_middles().data_ptr()),
            *(packed.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
        )
        return
    values = values.float()
    codes, largest = nearest(values, nf4_code(), BLOCK)
    if len(values) % BLOCK:
        largest[-1].clamp_(min=SMALLEST)
    scales.copy_(largest)
    packed.copy_(packed_nf4(codes))


def packed_nf4(codes: torch.Tensor) -> torch.Tensor:
    """Two codes a byte, the first in the high half."""
    if len(codes) % 2:
        # The unused half byte is a zero's code, as in bitsandbytes.
        codes = torch.cat([codes, codes.new_full((1,), _ZERO)])
    return (codes[::2] << 4) | codes[1::2]


def doubly_quantized(scales: torch.Tensor) -> DoubleScales:
    """Scales quantized themselves, around their mean."""
    offset = scales.mean()
    codes, outer = _nearest_bytes(scales - offset)
    return DoubleScales(codes, outer, offset.repeat(len(outer)))


def _nearest_bytes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if (native := native_for(values)) is None:
        return nearest(values, dynamic_code(), SCALE_BLOCK)
    codes, scales = torch.empty(len(values), dtype=torch.uint8), torch.empty(-(-len(values) // SCALE_BLOCK))
    native.groat_to_bytes(
        *(values.data_ptr(), len(values), SCALE_BLOCK, dynamic_middles().data_ptr()),
        *(codes.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
    )
    return codes, scales
