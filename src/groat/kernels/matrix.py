"""Frozen weights as the products read them: plain, in tiles, or quantized."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from groat.kernels.huge_pages import Empty, ordinary
from groat.kernels.int8 import Int8Matrix, RowInt8Matrix, int8_of
from groat.kernels.native import MatrixView, native_for
from groat.kernels.nf4 import NF4Matrix, nf4_of
from groat.kernels.quantized import Rows, rows_in_ranges
from groat.types import Compute, StorageKind

_ELEMENTS_AT_ONCE = 2**21


@dataclass(frozen=True, eq=False)
class TiledMatrix:
    """fp32 weights [N, K] in the order in which the compiled kernel reads them: one copy, nothing packed at run time.

    Row n is `tiles_PKC[n // C, :, n % C]`; rows past N are zeros.
    """

    tiles_PKC: torch.Tensor
    num_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.tiles_PKC.shape[1]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.tiles_PKC,)

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows by number, [T, K]."""
        columns = self.tiles_PKC.shape[2]
        return self.tiles_PKC[ids_T // columns, :, ids_T % columns]

    @functools.cached_property
    def view(self) -> MatrixView:
        return MatrixView.of(4, self.shape, self.tiles_PKC)


Matrix = torch.Tensor | TiledMatrix | Int8Matrix | RowInt8Matrix | NF4Matrix
"""Frozen weights [N, K]; a tensor is fp32 or bf16 (or fp64, in tests)."""


def stored(weight_NK: torch.Tensor, kind: StorageKind) -> Matrix:
    """The weights as `kind` keeps them; fp32 ones in tiles where the compiled kernels read them."""
    return stored_rows((weight_NK.shape[0], weight_NK.shape[1]), rows_in_ranges(weight_NK), kind)


def stored_rows(shape: tuple[int, int], ranges: Rows, kind: StorageKind, empty: Empty = ordinary) -> Matrix:
    """The same from rows that come a few at a time: beside what is kept, in memory from `empty`, only those exist."""
    match kind:
        case "f32":
            return _tiled(shape, ranges, empty)
        case "bf16":
            return plain_rows(shape, ranges, torch.bfloat16, empty)
        case "int8":
            return int8_of(shape, ranges, empty)
        case "nf4":
            return nf4_of(shape, ranges, empty)


def plain_rows(shape: tuple[int, int], ranges: Rows, dtype: torch.dtype, empty: Empty = ordinary) -> torch.Tensor:
    """One plain tensor of rows that come a few at a time."""
    weight_NK = empty(shape, dtype)
    first = 0
    for some in ranges:
        weight_NK[first : first + len(some)] = some
        first += len(some)
    return weight_NK


def _tiled(shape: tuple[int, int], ranges: Rows, empty: Empty) -> Matrix:
    """In tiles, where the compiled kernels read them; else plain."""
    if (native := native_for()) is None:
        return plain_rows(shape, ranges, torch.float32, empty)
    width: int = native.groat_tile_columns()
    tiles_PKC = empty((-(-shape[0] // width), shape[1], width), torch.float32)
    first = 0
    for some in ranges:
        padded = F.pad(some, (0, 0, 0, -len(some) % width)).view(-1, width, shape[1])
        tiles_PKC[first : first + len(padded)] = padded.transpose(1, 2)
        first += len(padded)
    return TiledMatrix(tiles_PKC, shape[0])


def computed_in(weight_NK: Matrix, compute: Compute) -> Matrix:
    """The same weights, products with them computed so; only int8 and nf4 ones have the choice."""
    return replace(weight_NK, compute=compute) if isinstance(weight_NK, Int8Matrix | NF4Matrix) else weight_NK


def rows_of(weight_NK: Matrix, ids_T: torch.Tensor) -> torch.Tensor:
    """Rows of a matrix by number, [T, K]; fp32, or what a plain one is in if that is wider."""
    if not isinstance(weight_NK, torch.Tensor):
        return weight_NK.rows(ids_T)
    rows_TK = weight_NK[ids_T]
    return rows_TK.float() if rows_TK.dtype == torch.bfloat16 else rows_TK


def dense_of(weight_NK: Matrix) -> torch.Tensor:
    """A matrix as one plain tensor [N, K]; a copy, unless it is one already."""
    if isinstance(weight_NK, torch.Tensor):
        return weight_NK
    return weight_NK.rows(torch.arange(weight_NK.shape[0]))


def tensors_of(weight_NK: Matrix) -> tuple[torch.Tensor, ...]:
    """What the matrix is stored in, for counting bytes."""
    return (weight_NK,) if isinstance(weight_NK, torch.Tensor) else weight_NK.tensors()


def view_of(weight_NK: Matrix) -> MatrixView | None:
    """The matrix as the compiled kernels take it; None for one they do not: fp64, or off the CPU."""
    if not isinstance(weight_NK, torch.Tensor):
        return weight_NK.view
    kind = {torch.float32: 0, torch.bfloat16: 1}.get(weight_NK.dtype)
    if kind is None or weight_NK.device.type != "cpu" or not weight_NK.is_contiguous():
        return None
    return MatrixView.of(kind, (weight_NK.shape[0], weight_NK.shape[1]), weight_NK)


def plain_parts(weight_NK: Matrix) -> Iterator[tuple[slice, torch.Tensor]]:
    """The matrix in plain rows, a range after the other: what products without a compiled kernel work on.

    At most `_ELEMENTS_AT_ONCE` exist beside the stored ones.
    """
    if isinstance(weight_NK, torch.Tensor) and weight_NK.dtype != torch.bfloat16:
        yield slice(0, weight_NK.shape[0]), weight_NK
        return
    step = max(1, _ELEMENTS_AT_ONCE // weight_NK.shape[1])
    for start in range(0, weight_NK.shape[0], step):
        rows = slice(start, min(start + step, weight_NK.shape[0]))
        yield rows, rows_of(weight_NK, torch.arange(rows.start, rows.stop))
