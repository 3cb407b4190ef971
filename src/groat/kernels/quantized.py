"""Frozen weights in 8 and 4 bits: how they are made, and how they become numbers again, a few rows at a time.

`int8` is symmetric with one scale per output. `nf4` is QLoRA's 4-bit NormalFloat (arXiv:2305.14314) with blocks of 64
and double quantization, byte for byte as bitsandbytes stores it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from groat.kernels.native import MatrixView

BLOCK = 64
"""Elements that share one NF4 scale; blocks run over the flattened matrix."""
SCALE_BLOCK = 256
"""NF4 scales that share one scale of their own."""
_ZERO = 7
"""The NF4 code of 0."""
_ELEMENTS_AT_ONCE = 2**20
"""Elements quantized at one time: a multiple of both blocks, so that cutting changes nothing."""


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


QuantizedMatrix = Int8Matrix | NF4Matrix


def to_int8(weight_NK: torch.Tensor) -> Int8Matrix:
    """Round to 127 steps either side of zero, the largest of each row at the end; a few rows at a time."""
    values_NK = torch.empty(weight_NK.shape, dtype=torch.int8)
    scales_N = torch.empty(weight_NK.shape[0])
    step = max(1, _ELEMENTS_AT_ONCE // weight_NK.shape[1])
    for rows in (slice(start, start + step) for start in range(0, weight_NK.shape[0], step)):
        scales = weight_NK[rows].float().abs().amax(1).div_(127)
        # A row of zeros keeps a scale that can be divided by.
        scales_N[rows] = torch.where(scales == 0, 1.0, scales)
        values_NK[rows] = weight_NK[rows].float().div(scales_N[rows, None]).round_().to(torch.int8)
    return Int8Matrix(values_NK, scales_N)


def to_nf4(weight_NK: torch.Tensor) -> NF4Matrix:
    """Quantize as bitsandbytes does with `quant_type="nf4"`, `blocksize=64`, `compress_statistics=True`."""
    packed = torch.empty(-(-weight_NK.numel() // 2), dtype=torch.uint8)
    scales = torch.empty(-(-weight_NK.numel() // BLOCK))
    for start in range(0, weight_NK.numel(), _ELEMENTS_AT_ONCE):
        some = weight_NK.flatten()[start : start + _ELEMENTS_AT_ONCE].float()
        codes, some_scales = _nearest(some, nf4_code(), BLOCK)
        if len(codes) % 2:
            # The unused half byte is a zero's code, as in bitsandbytes.
            codes = torch.cat([codes, codes.new_full((1,), _ZERO)])
        packed[start // 2 : (start + len(some) + 1) // 2] = (codes[::2] << 4) | codes[1::2]
        scales[start // BLOCK : start // BLOCK + len(some_scales)] = some_scales
    offset = scales.mean()
    scale_codes, scale_scales = _nearest(scales - offset, dynamic_code(), SCALE_BLOCK)
    return NF4Matrix(
        num_rows=weight_NK.shape[0],
        num_columns=weight_NK.shape[1],
        packed=packed,
        scales=DoubleScales(scale_codes, scale_scales, offset.repeat(len(scale_scales))),
    )


def _nearest(values: torch.Tensor, code: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the nearest code value for each value relative to its block's largest; and those largest."""
    size, tail = len(values), len(values) % block
    whole = torch.nn.functional.pad(values, (0, -size % block)).view(-1, block)
    scales = whole.abs().amax(1)
    divisors = scales.clamp(min=1e-38)[:, None]
    # Whole blocks times the reciprocal, an unfinished one divided: the last bit decides some bytes.
    relative = whole * (1.0 / divisors)
    if tail:
        relative[-1] = whole[-1] / divisors[-1]
    middles = (code[:-1] + code[1:]) / 2
    return torch.bucketize(relative.clamp_(-1, 1).flatten()[:size], middles).to(torch.uint8), scales
