"""Memory in pages of 2 MiB: what every step reads from end to end would otherwise wait for the tables of its pages, on
virtual machines most of all."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

import torch

_HUGE_PAGE = 2**21
_BLOCK = 2**25
_LINE = 64

Empty = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
"""Gives a tensor of this shape and kind with whatever was there before."""


def ordinary(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Of memory as it comes."""
    return torch.empty(shape, dtype=dtype)


class Shelf:
    """Tensors one behind the other, each where a cache line begins, for what stays as long as the process. They share
    blocks of memory, which go when the last tensor of each goes."""

    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An `Empty`."""
        wanted = torch.empty(shape, dtype=dtype, device="meta")
        taken = -(-wanted.nbytes // _LINE) * _LINE
        if taken > len(self._left):
            block = torch.empty(max(_BLOCK, taken) + _HUGE_PAGE, dtype=torch.uint8)
            _ask_for_huge_pages(block)
            self._left = block[-block.data_ptr() % _HUGE_PAGE :]
        made, self._left = self._left[: wanted.nbytes], self._left[taken:]
        return made.view(dtype).view(shape)


def zeros_in_huge_pages(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Zeros of this shape, of the kind of `like`; in huge pages, where the system has them and they would fill some."""
    made = like.new_empty(shape)
    _ask_for_huge_pages(made)
    return made.zero_()


def _ask_for_huge_pages(fresh: torch.Tensor) -> None:
    """A wish for memory that nobody has touched: where it is not granted, pages are as they are elsewhere."""
    if sys.platform != "linux" or fresh.device.type != "cpu":
        return
    first = -(-fresh.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    size = (fresh.data_ptr() + fresh.nbytes - first) // _HUGE_PAGE * _HUGE_PAGE
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
