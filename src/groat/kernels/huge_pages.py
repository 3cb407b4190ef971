"""Memory in pages of 2 MiB: what every step reads from end to end would otherwise wait for the tables of its pages, on
virtual machines most of all."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch

_HUGE_PAGE = 2**21


def zeros_in_huge_pages(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Zeros of this shape, of the kind of `like`; in huge pages, where the system has them and they would fill some."""
    made = like.new_empty(shape)
    if sys.platform == "linux" and made.device.type == "cpu":
        first = -(-made.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        size = (made.data_ptr() + made.nbytes - first) // _HUGE_PAGE * _HUGE_PAGE
        if size > 0:
            # A wish: where it is not granted, pages are as they are elsewhere.
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return made.zero_()
