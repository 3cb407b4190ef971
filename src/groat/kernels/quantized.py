"""Frozen weights in 8 and 4 bits: how they are made, and how they become numbers again, a few rows at a time.

`int8` is symmetric with one scale per output. `nf4` is QLoRA's 4-bit NormalFloat (arXiv:2305.14314) with blocks of 64
and double quantization, byte for byte as bitsandbytes stores it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from groat.kernels.native import MatrixView, native_for

BLOCK = 64
"""Elements that share one NF4 scale; blocks run over the flattened matrix."""
SCALE_BLOCK = 256
"""NF4 scales that share one scale of their own."""
_ZERO = 7
"""The NF4 code of 0."""
_ELEMENTS_AT_ONCE = 2**20
"""Elements quantized at one time, about."""
_SMALLEST = 1e-38
"""What a block of zeros is divided by, as in bitsandbytes."""


@functools.cache
def nf4_code() -> torch.Tensor:
    """The 16 values of NF4 (QLoRA, appendix E), fp32."""
    below = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
    below += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
    above = [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    above += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    return torch.tensor(below + above)


@functools.cache
def dynamic_code() -> torch.Tensor:
    """The 256 values of signed dynamic 8-bit quantization (arXiv:2110.02861, section 1.3), fp32, ascending.

    Seven decades; the i-th holds 2^i values of either sign, centres of equal parts of [0.1, 1]; then 0 and 1.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        centres = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        values += centres + [-centre for centre in centres]
    return torch.tensor(sorted(values))


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """A frozen matrix [N, K]: `values_NK * scales_N`."""

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
        return MatrixView.of(2, self.shape, self.values_NK, scales=self.scales_N)


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
            3,
            self.shape,
            self.packed,
            block=BLOCK,
            code=nf4_code(),
            **self.scales.pointers(),
        )


class NotFiniteError(ValueError):
    """Weights hold an infinity or NaN: there is no scale for them."""


Rows = Iterable[torch.Tensor]
"""The rows of a matrix in their order, as many at a time as `row_ranges` says; in fp32 or 16 bits."""


def row_ranges(shape: tuple[int, int]) -> Iterator[slice]:
    """How a matrix is cut: into so many rows that their elements are whole blocks, but for the last ones."""
    rows, columns = shape
    step = BLOCK * max(1, _ELEMENTS_AT_ONCE // (BLOCK * columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def rows_in_ranges(weight_NK: torch.Tensor) -> Iterator[torch.Tensor]:
    return (weight_NK[rows] for rows in row_ranges((weight_NK.shape[0], weight_NK.shape[1])))


def to_int8(weight_NK: torch.Tensor) -> Int8Matrix:
    """Round to 127 steps either side of zero, the largest of each row at the end."""
    return int8_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


def to_nf4(weight_NK: torch.Tensor) -> NF4Matrix:
    """Quantize as bitsandbytes does with `quant_type="nf4"`, `blocksize=64`, `compress_statistics=True`."""
    return nf4_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


def int8_of(shape: tuple[int, int], ranges: Rows) -> Int8Matrix:
    """`to_int8` of rows that come a few at a time. NotFiniteError for infinities and NaN."""
    values_NK, scales_N = torch.empty(shape, dtype=torch.int8), torch.empty(shape[0])
    first = 0
    for some in ranges:
        rows = slice(first, first + len(some))
        _round_rows(some.float().contiguous(), values_NK[rows], scales_N[rows])
        first = rows.stop
    _check_finite(scales_N)
    return Int8Matrix(values_NK, scales_N)


def nf4_of(shape: tuple[int, int], ranges: Rows) -> NF4Matrix:
    """`to_nf4` of rows that come a few at a time. NotFiniteError for infinities and NaN."""
    rows, columns = shape
    packed, scales = torch.empty(-(-rows * columns // 2), dtype=torch.uint8), torch.empty(-(-rows * columns // BLOCK))
    start = 0
    for some in ranges:
        values = some.float().flatten()
        end = start + len(values)
        _round_to_nf4(values, packed[start // 2 : (end + 1) // 2], scales[start // BLOCK : -(-end // BLOCK)])
        start = end
    _check_finite(scales)
    return NF4Matrix(num_rows=rows, num_columns=columns, packed=packed, scales=doubly_quantized(scales))


def _check_finite(scales: torch.Tensor) -> None:
    if not scales.isfinite().all():
        raise NotFiniteError("weights hold an infinity or NaN")


def _round_rows(weight_NK: torch.Tensor, values_NK: torch.Tensor, scales_N: torch.Tensor) -> None:
    """Fill `values_NK` and `scales_N`."""
    if native := native_for(weight_NK):
        native.groat_to_int8(
            *(weight_NK.data_ptr(), *weight_NK.shape, values_NK.data_ptr(), scales_N.data_ptr()),
            torch.get_num_threads(),
        )
        return
    steps = weight_NK.abs().amax(1).div_(127)
    # A row of zeros keeps a scale that can be divided by.
    scales_N.copy_(torch.where(steps == 0, 1.0, steps))
    # The scale of a row of the smallest numbers there are is so coarse that the row would end beyond 127.
    values_NK.copy_(weight_NK.div(scales_N[:, None]).clamp_(-127, 127).round_())


def _round_to_nf4(values: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> None:
    """Fill `packed` and `scales`."""
    if native := native_for(values):
        native.groat_to_nf4(
            *(values.data_ptr(), len(values), _nf4_middles().data_ptr(), packed.data_ptr(), scales.data_ptr()),
            torch.get_num_threads(),
        )
        return
    codes, largest = _nearest(values, nf4_code(), BLOCK)
    if len(values) % BLOCK:
        largest[-1].clamp_(min=_SMALLEST)
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
        return _nearest(values, dynamic_code(), SCALE_BLOCK)
    codes, scales = torch.empty(len(values), dtype=torch.uint8), torch.empty(-(-len(values) // SCALE_BLOCK))
    native.groat_to_bytes(
        *(values.data_ptr(), len(values), SCALE_BLOCK, _dynamic_middles().data_ptr()),
        *(codes.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
    )
    return codes, scales


@functools.cache
def _nf4_middles() -> torch.Tensor:
    return _middles(nf4_code())


@functools.cache
def _dynamic_middles() -> torch.Tensor:
    return _middles(dynamic_code())


def _middles(code: torch.Tensor) -> torch.Tensor:
    return (code[:-1] + code[1:]) / 2


def _nearest(values: torch.Tensor, code: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the nearest code value for each value relative to its block's largest; and those largest."""
    size, tail = len(values), len(values) % block
    whole = torch.nn.functional.pad(values, (0, -size % block)).view(-1, block)
    scales = whole.abs().amax(1)
    divisors = scales.clamp(min=_SMALLEST)[:, None]
    # Whole blocks times the reciprocal, an unfinished one divided: the last bit decides some bytes.
    relative = whole * (1.0 / divisors)
    if tail:
        relative[-1] = whole[-1] / divisors[-1]
    return torch.bucketize(relative.flatten()[:size], _middles(code)).to(torch.uint8), scales
