"""Memory for results that come and go: handed out again, rather than given back to the system and mapped anew.

Large blocks that malloc maps on their own cost a page fault for every 4 KiB each time: a fifth of a learner's time.
What waits here to be used again makes the process hardly larger than it was.
"""

from __future__ import annotations

import math
import mmap
import weakref

import torch

_LEAST_BYTES = 2**18
"""Smaller tensors are left to malloc."""


_FIT = 1.5
"""A block is used for at least this share's inverse of its size."""


class Rooms:
    """Blocks of some sizes; those that nobody uses wait to be used again, and the oldest go when they are too many."""

    def __init__(self, spare_bytes: int = 0) -> None:
        self.spare_bytes = spare_bytes
        """So much may be held beyond what was in use at one time."""
        self._free: list[tuple[int, int, mmap.mmap]] = []
        """Size, bytes its last user asked for, block; the oldest first."""
        self._used: dict[int, weakref.ref[memoryview]] = {}
        self._held_bytes = self._used_bytes = self._most_used_bytes = 0
        self.free_bytes = 0
        """Held by blocks that nobody uses, at least: as many as their last users asked for."""

    def empty(self, *shape: int) -> torch.Tensor:
        """An fp32 tensor with whatever was there before. Its block comes back when its storage goes."""
        count = math.prod(shape)
        num_bytes = 4 * count
        if num_bytes < _LEAST_BYTES:
            return torch.empty(shape)
        size, block = self._take(_rounded_up(num_bytes))
        view = memoryview(block)
        name = id(view)

        def come_back(_: weakref.ref[memoryview]) -> None:
            del self._used[name]
            self._free.append((size, num_bytes, block))
            self._used_bytes -= size
            self.free_bytes += num_bytes

        self._used[name] = weakref.ref(view, come_back)
        # Not a view of the flat tensor, which autograd would not let a custom function return and others change.
        storage = torch.frombuffer(view, dtype=torch.float32, count=count).untyped_storage()
        return torch.empty(0).set_(storage, 0, shape)  # pyright: ignore[reportCallIssue]

    def let_go(self) -> None:
        """Give all free blocks back to the system."""
        while self._free:
            self._drop_oldest()
        self._most_used_bytes = self._used_bytes

    def _take(self, size: int) -> tuple[int, mmap.mmap]:
        fitting = [i for i, (free, _, _) in enumerate(self._free) if size <= free <= _FIT * size]
        if fitting:
            size, num_bytes, block = self._free.pop(min(fitting, key=lambda i: self._free[i][0]))
            self.free_bytes -= num_bytes
        else:
            block = self._map(size)
        self._used_bytes += size
        self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
        return size, block

    def _map(self, size: int) -> mmap.mmap:
        most = max(self._most_used_bytes, self._used_bytes + size) + self.spare_bytes
        while self._free and self._held_bytes + size > most:
            self._drop_oldest()
        self._held_bytes += size
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _drop_oldest(self) -> None:
        size, num_bytes, _ = self._free.pop(0)
        self._held_bytes -= size
        self.free_bytes -= num_bytes


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
