"""fp32 weights in the order in which the compiled kernel reads them: one copy, no packing while it multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from groat.kernels.native import native_for


@dataclass(frozen=True, slots=True, eq=False)
class TiledMatrix:
    """A frozen matrix [N, K]: row n is `tiles_PKC[n // C, :, n % C]`; rows past N are zeros."""

    tiles_PKC: torch.Tensor
    num_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.tiles_PKC.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.tiles_PKC.dtype

    def rows(self, ids_T: torch.Tensor) -> torch.Tensor:
        """Rows by number, [T, K]."""
        columns = self.tiles_PKC.shape[2]
        return self.tiles_PKC[ids_T // columns, :, ids_T % columns]

    def dense(self) -> torch.Tensor:
        """A plain copy [N, K]."""
        return self.tiles_PKC.transpose(1, 2).flatten(0, 1)[: self.num_rows]


Matrix = torch.Tensor | TiledMatrix
"""Frozen weights [N, K], plain or in tiles."""


def tiled(weight_NK: torch.Tensor) -> Matrix:
    """The same weights in tiles, where the compiled kernels read them; else what was given."""
    if (native := native_for(weight_NK)) is None:
        return weight_NK
    columns: int = native.groat_tile_columns()
    rows, inputs = weight_NK.shape
    padded = F.pad(weight_NK, (0, 0, 0, -rows % columns))
    return TiledMatrix(padded.view(-1, columns, inputs).transpose(1, 2).contiguous(), rows)


def rows_of(weight_NK: Matrix, ids_T: torch.Tensor) -> torch.Tensor:
    """Rows of a matrix by number, [T, K]."""
    return weight_NK.rows(ids_T) if isinstance(weight_NK, TiledMatrix) else weight_NK[ids_T]


def dense_of(weight_NK: Matrix) -> torch.Tensor:
    """A matrix as one plain tensor [N, K]; a copy where it lies in tiles."""
    return weight_NK.dense() if isinstance(weight_NK, TiledMatrix) else weight_NK
