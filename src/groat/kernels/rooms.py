"""Memory for results that come and go: handed out again, rather than given back to the system and mapped anew.

Large blocks that malloc maps on their own cost a page fault for every 4 KiB each time: a fifth of a learner's time. What
is kept here never makes the process larger than it was: before a block is mapped, as many free bytes are given back.
"""

from __future__ import annotations

import math
import mmap
import weakref

import torch

_LEAST_BYTES = 2**18
"""Smaller tensors are left to malloc."""


class Rooms:
    """Blocks by size; those that nobody uses wait to be used again. Sizes have three bits, so that they meet often."""

    def __init__(self) -> None:
        self._free: dict[int, list[tuple[mmap.mmap, int]]] = {}
        self._used: dict[int, weakref.ref[memoryview]] = {}
        self.free_bytes = 0
        """Held by blocks that nobody uses, at least: as many as their last users asked for."""

    def empty(self, *shape: int) -> torch.Tensor:
        """An fp32 tensor with whatever was there before. Its block comes back when its storage goes."""
        count = math.prod(shape)
        num_bytes = 4 * count
        if num_bytes < _LEAST_BYTES:
            return torch.empty(shape)
        size = _rounded_up(num_bytes)
        block = self._take(size)
        view = memoryview(block)
        name = id(view)

        def come_back(_: weakref.ref[memoryview]) -> None:
            del self._used[name]
            self._free.setdefault(size, []).append((block, num_bytes))
            self.free_bytes += num_bytes

        self._used[name] = weakref.ref(view, come_back)
        # Not a view of the flat tensor, which autograd would not let a custom function return and others change.
        storage = torch.frombuffer(view, dtype=torch.float32, count=count).untyped_storage()
        return torch.empty(0).set_(storage, 0, shape)

    def let_go(self, num_bytes: float = math.inf) -> None:
        """Give free blocks back to the system, the largest first, until so many bytes are or none is left."""
        while num_bytes > 0 and (sizes := [size for size, blocks in self._free.items() if blocks]):
            num_bytes -= max(sizes)
            self._pop(max(sizes))

    def _take(self, size: int) -> mmap.mmap:
        if self._free.get(size):
            return self._pop(size)
        self.let_go(size)
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _pop(self, size: int) -> mmap.mmap:
        block, num_bytes = self._free[size].pop()
        self.free_bytes -= num_bytes
        return block


def _rounded_up(num_bytes: int) -> int:
    step = 2 ** (num_bytes.bit_length() - 4)
    return -(-num_bytes // step) * step


ROOMS = Rooms()
"""Those of the process: memory is its, whoever computes."""


def room_like(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """An empty tensor of this shape, of the kind of `tensor`."""
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        return tensor.new_empty(shape)
    return ROOMS.empty(*shape)
