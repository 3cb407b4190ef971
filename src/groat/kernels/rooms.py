"""Memory for results that come and go: handed out again, rather than given back to the system and mapped anew.

Large blocks that malloc maps on their own cost a page fault for every 4 KiB each time: a fifth of a learner's time.
What waits here to be used again makes the process hardly larger than it was.
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections import defaultdict
from typing import NamedTuple

import torch

_LEAST_BYTES = 2**18
"""Smaller tensors are left to malloc."""


_FIT = 1.5
"""A block is used for at least this share's inverse of its size."""


class _FreeBlock(NamedTuple):
    size: int
    used_bytes: int
    """What its last user asked for."""
    block: mmap.mmap


class Rooms:
    """Blocks of some sizes; those that nobody uses wait to be used again, and the oldest go when they are too many."""

    def __init__(self, spare_bytes: int = 0) -> None:
        self.spare_bytes = spare_bytes
        """So much may be held beyond what was in use at one time."""
        self._free: dict[int, _FreeBlock] = {}
        """By number; the oldest first."""
        self._free_of_size: defaultdict[int, list[int]] = defaultdict(list)
        self._numbers = itertools.count()
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
            number = next(self._numbers)
            self._free[number] = _FreeBlock(size, num_bytes, block)
            self._free_of_size[size].append(number)
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
        fitting = min((free for free in self._free_of_size if size <= free <= _FIT * size), default=None)
        if fitting is None:
            block = self._map(size)
        else:
            # The youngest, which may still be in the cache.
            size, block = fitting, self._forget(self._free_of_size[fitting][-1]).block
        self._used_bytes += size
        self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
        return size, block

    def _forget(self, number: int) -> _FreeBlock:
        """A block is no longer free."""
        free = self._free.pop(number)
        numbers = self._free_of_size[free.size]
        numbers.remove(number)
        if not numbers:
            del self._free_of_size[free.size]
        self.free_bytes -= free.used_bytes
        return free

    def _map(self, size: int) -> mmap.mmap:
        most = max(self._most_used_bytes, self._used_bytes + size) + self.spare_bytes
        while self._free and self._held_bytes + size > most:
            self._drop_oldest()
        self._held_bytes += size
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _drop_oldest(self) -> None:
        self._held_bytes -= self._forget(next(iter(self._free))).size


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
