"""Memory in pages of 2 MiB: what is read from end to end in every step would otherwise wait for the tables of its pages,
most of all on virtual machines."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import torch

_HUGE_PAGE = 2**21


def zeros_like_in_huge_pages(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """Zeros of this shape, of the kind of `tensor`, in huge pages where the system has them and they would fill some."""
    made = tensor.new_empty(shape)
    if sys.platform == "linux" and made.device.type == "cpu":
        first = -(-made.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        size = (made.data_ptr() + made.nbytes - first) // _HUGE_PAGE * _HUGE_PAGE
        if size > 0:
            # A wish: where it is not granted, pages are as they are elsewhere.
            _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return made.zero_()


def _libc() -> Any:
    return ctypes.CDLL(None)
