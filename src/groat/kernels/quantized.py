"""Frozen weights in 8 and 4 bits: how they are made, and how they become numbers again, a few rows at a time.

`int8` is symmetric with a scale for 128 inputs of an output, turned first so that no single one is large. `nf4` is
QLoRA's 4-bit NormalFloat (arXiv:2305.14314) with blocks of 64 and double quantization, byte for byte as bitsandbytes
stores it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from groat.kernels.huge_pages import Empty, ordinary
from groat.kernels.native import MatrixView, native_for
from groat.types import Compute

BLOCK = 64
"""Elements that are turned together, and in NF4 share a scale; NF4's run over the flattened matrix."""
_PAIR = 2
"""Blocks that share a scale in int8; a last one may be alone."""
TILE_OUTPUTS, GROUP = 32, 4
"""Outputs of a tile of int8 weights, and inputs of each that lie side by side: those of int8.h."""
INT8_TILES, NF4_ROWS = 2, 3
"""The kinds of these matrices in native.cpp."""
SCALE_BLOCK = 256
"""NF4 scales that share one scale of their own."""
_ZERO = 7
"""The NF4 code of 0."""
_ELEMENTS_AT_ONCE = 2**20
"""Elements quantized at one time, about: enough that what they were in goes back to the system (allocator.py)."""
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
def dynamic_code(*, signed: bool = True) -> torch.Tensor:
    """The 256 values of dynamic 8-bit quantization (arXiv:2110.02861, section 1.3), fp32, ascending.

    Seven decades; the i-th holds 2^i values of either sign, centres of equal parts of [0.1, 1]; then 0 and 1. Without a
    sign its bit makes every decade twice as fine.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        centres = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        values += centres + [-centre for centre in centres if signed]
    return torch.tensor(sorted(values))


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
    """Turn and round to 127 steps either side of zero, the largest of each block at the end."""
    return int8_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


def to_nf4(weight_NK: torch.Tensor) -> NF4Matrix:
    """Quantize as bitsandbytes does with `quant_type="nf4"`, `blocksize=64`, `compress_statistics=True`."""
    return nf4_of((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK))


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
        _check_finite(scales)
        return
    weight_NK = weight_NK.float()
    blocks_NBK = turned(torch.nn.functional.pad(weight_NK, (0, 0, 0, -len(weight_NK) % TILE_OUTPUTS)))
    largest_NP = _largest(blocks_NBK, _PAIR)
    _check_finite(largest_NP)
    scales_NP, num_blocks = _bf16_above(largest_NP / 127), tiles.shape[1]
    # Blocks of zeros have the scale 0 and stay zeros.
    divisors_NP = scales_NP.float().clamp_(min=_SMALLEST)
    blocks_NBK.div_(divisors_NP.repeat_interleave(_PAIR, 1)[:, :num_blocks, None]).round_().add_(128)
    values = blocks_NBK.to(torch.uint8).view(-1, TILE_OUTPUTS, num_blocks, BLOCK // GROUP, GROUP)
    tiles.copy_(values.permute(0, 2, 3, 1, 4))
    scales.copy_(scales_NP.view(-1, TILE_OUTPUTS, scales.shape[1]).transpose(1, 2))


def _bf16_above(values: torch.Tensor) -> torch.Tensor:
    """The next bf16 number that is not smaller; of numbers not below 0."""
    return ((values.view(torch.int32) + 0xFFFF) >> 16).to(torch.int16).view(torch.bfloat16)


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
    _check_finite(scales)
    return NF4Matrix(num_rows=rows, num_columns=columns, packed=packed, scales=doubly_quantized(scales))


def _check_finite(scales: torch.Tensor) -> None:
    if not scales.isfinite().all():
        raise NotFiniteError("weights hold an infinity or NaN")


def _round_to_nf4(values: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor) -> None:
    """Fill `packed` and `scales`."""
    values = values if values.dtype == torch.bfloat16 else values.float()
    if native := native_for():
        native.groat_to_nf4(
            *(values.data_ptr(), int(values.dtype == torch.bfloat16), len(values), _nf4_middles().data_ptr()),
            *(packed.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
        )
        return
    values = values.float()
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
        *(values.data_ptr(), len(values), SCALE_BLOCK, dynamic_middles().data_ptr()),
        *(codes.data_ptr(), scales.data_ptr(), torch.get_num_threads()),
    )
    return codes, scales


@functools.cache
def _nf4_middles() -> torch.Tensor:
    return _middles(nf4_code())


@functools.cache
def dynamic_middles(*, signed: bool = True) -> torch.Tensor:
    """Between neighbours of `dynamic_code`: where the nearest value changes."""
    return _middles(dynamic_code(signed=signed))


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
