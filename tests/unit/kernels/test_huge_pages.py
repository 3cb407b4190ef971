"""Memory in huge pages is memory like any other."""

from __future__ import annotations

import gc
import weakref

import torch

from groat.kernels.huge_pages import Shelf, zeros_in_huge_pages
from groat.kernels.matrix import dense_of, stored, stored_rows
from groat.kernels.quantized import rows_in_ranges


def test_what_lies_on_a_shelf_overlaps_nowhere():
    shelf = Shelf()
    shapes = [(3, 5), (1000, 7), (1,), (2**25 + 3,), (40, 40)]
    made = [shelf.empty(shape, torch.float32 if len(shape) == 2 else torch.uint8) for shape in shapes]
    for number, tensor in enumerate(made):
        assert tensor.shape == shapes[number]
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(number)
    for number, tensor in enumerate(made):
        assert bool((tensor == number).all())


def test_a_shelf_holds_nothing_that_nobody_uses():
    shelf = Shelf()
    first = shelf.empty((2**25,), torch.uint8)
    storage = weakref.ref(first.untyped_storage())
    shelf.empty((2**25,), torch.uint8)
    del first
    gc.collect()
    assert storage() is None


def test_weights_on_a_shelf_are_the_same():
    weight_NK = torch.randn(70, 96, generator=torch.Generator().manual_seed(0))
    shelf = Shelf()
    for kind in ("f32", "bf16", "int8", "nf4"):
        on_shelf = stored_rows((70, 96), rows_in_ranges(weight_NK), kind, shelf.empty)
        assert torch.equal(dense_of(on_shelf), dense_of(stored(weight_NK, kind)))


def test_zeros_of_every_size():
    for shape in ((), (0, 3), (5,), (3, 2**20)):
        like = torch.ones(2, dtype=torch.int8)
        made = zeros_in_huge_pages(like, *shape)
        assert made.dtype == torch.int8
        assert made.shape == shape
        assert not made.any()
