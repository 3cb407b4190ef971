"""What int8 and NF4 have in common: blocks, and matrices that come a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

BLOCK = 64
"""Elements that are turned together, and in NF4 share a scale; NF4's run over the flattened matrix."""
_ELEMENTS_AT_ONCE = 2**20
"""Elements quantized at one time, about: enough that what they were in goes back to the system (allocator.py)."""
SMALLEST = 1e-38
"""What a block of zeros is divided by, as in bitsandbytes."""

Rows = Iterable[torch.Tensor]
"""The rows of a matrix in their order, as many at a time as `row_ranges` says; in fp32 or 16 bits."""


class NotFiniteError(ValueError):
    """Weights hold an infinity or NaN: there is no scale for them."""


def check_finite(scales: torch.Tensor) -> None:
    if not scales.isfinite().all():
        raise NotFiniteError("weights hold an infinity or NaN")


def row_ranges(shape: tuple[int, int]) -> Iterator[slice]:
    """How a matrix is cut: into so many rows that their elements are whole blocks, but for the last ones."""
    rows, columns = shape
    step = BLOCK * max(1, _ELEMENTS_AT_ONCE // (BLOCK * columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def rows_in_ranges(weight_NK: torch.Tensor) -> Iterator[torch.Tensor]:
    return (weight_NK[rows] for rows in row_ranges((weight_NK.shape[0], weight_NK.shape[1])))
