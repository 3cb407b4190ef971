"""Memory that is handed out again: never to two at a time, and never more than was in use at once, but for a little."""

from __future__ import annotations

import torch

from groat.kernels.rooms import Rooms

MIB = 2**18  # numbers


def test_a_block_is_used_again_when_its_last_view_is_gone():
    rooms = Rooms()
    first = rooms.empty(2, MIB)
    address, part = first.data_ptr(), first[1, 5:]
    del first
    other = rooms.empty(2, MIB)
    assert other.data_ptr() != address
    del part
    assert rooms.empty(2, MIB).data_ptr() == address


def test_tensors_in_use_share_nothing():
    rooms = Rooms()
    tensors = [rooms.empty(MIB + 1000 * index).fill_(index) for index in range(5)]
    del tensors[2]
    tensors += [rooms.empty(MIB).fill_(7) for _ in range(2)]
    assert [tensor.unique().tolist() for tensor in tensors] == [[0], [1], [3], [4], [7], [7]]


def test_a_larger_block_serves_if_little_of_it_is_wasted():
    rooms = Rooms(spare_bytes=32 * 2**20)
    address = rooms.empty(4 * MIB).data_ptr()
    assert rooms.empty(MIB).data_ptr() != address
    assert rooms.empty(3 * MIB).data_ptr() == address


def test_free_memory_is_counted_and_let_go():
    rooms = Rooms()
    kept, gone = rooms.empty(3, MIB), rooms.empty(4, MIB)
    assert rooms.free_bytes == 0
    del gone
    assert rooms.free_bytes == 4 * 4 * MIB
    rooms.let_go()
    assert rooms.free_bytes == 0
    assert kept.fill_(1.0).sum() == 3 * MIB


def test_hardly_more_is_held_than_was_in_use_at_once():
    """Ever larger tensors of 1 to 60 MiB, one at a time: without a limit 1830 MiB would wait to be used again."""
    rooms = Rooms()
    for size in range(1, 61):
        rooms.empty(size, MIB)
        assert rooms.free_bytes <= (size + 32) * 4 * MIB


def test_small_tensors_are_left_to_malloc():
    rooms = Rooms()
    small = rooms.empty(10)
    del small
    assert rooms.free_bytes == 0


def test_a_tensor_may_be_changed_in_place_after_a_custom_function():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return torch.mul(x, 2, out=Rooms().empty(*x.shape))

        @staticmethod
        def backward(ctx: object, *grads: torch.Tensor) -> torch.Tensor:
            return 2 * grads[0]

    x = torch.ones(2, MIB, requires_grad=True)
    output = Doubled.apply(x)
    output.add_(x).sum().backward()
    assert x.grad is not None
    assert x.grad.unique().tolist() == [3.0]
