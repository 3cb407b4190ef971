"""Keys and values rounded to int8, and the turn before that, in both kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from groat.kernels.attend import remember
from groat.kernels.kv import KV, to_int8, turned
from groat.kernels.native import Kernels, choose_kernels, native_for

SIZES = [1, 6, 20, 33, 64, 80, 96, 128]


@pytest.fixture(params=["auto", "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    if request.param == "auto" and native_for() is None:
        pytest.skip("no compiled kernels")
    choose_kernels(request.param)
    yield request.param
    choose_kernels("auto")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rounded(numbers: torch.Tensor) -> torch.Tensor:
    codes, scales = to_int8(numbers)
    return codes * scales


def test_codes_and_scales_by_hand(kernels: Kernels):
    numbers = torch.tensor([[1.0, -2.54, 0.011, 0.0], [0.0, 0.0, 0.0, 0.0]])
    codes, scales = to_int8(numbers)
    assert codes.tolist() == [[50, -127, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(scales, torch.tensor([[0.02], [0.0]]))
    torch.testing.assert_close(rounded(numbers)[0], torch.tensor([1.0, -2.54, 0.02, 0.0]))


@pytest.mark.parametrize("size", SIZES)
def test_rounding_is_off_by_half_a_step_at_most(kernels: Kernels, size: int):
    numbers = random(40, 3, size)
    step = numbers.abs().amax(-1, keepdim=True) / 127
    assert ((rounded(numbers) - numbers).abs() <= 0.5001 * step).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_head_that_is_not_finite_stays_so_and_the_others_are_as_they_were(kernels: Kernels, bad: float):
    numbers = random(2, 3, 20)
    expected = rounded(numbers)
    numbers[1, 2, 7] = bad
    found = rounded(numbers)
    assert found[1, 2].isnan().all()
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1, :2], expected[1, :2])


@pytest.mark.parametrize(("size", "block"), [(1, 1), (6, 2), (20, 4), (33, 1), (64, 64), (80, 16), (96, 32), (128, 64)])
def test_a_turn_is_a_hadamard_matrix_for_each_block(kernels: Kernels, size: int, block: int):
    heads = random(5, 2, size)
    rows = torch.arange(block)
    # Entry (i, j) is -1 to the number of bits that i and j have in common.
    common = torch.tensor([[(int(i) & int(j)).bit_count() for j in rows] for i in rows])
    matrix = (-1.0) ** common / block**0.5
    expected = torch.cat([part @ matrix for part in heads.split(block, dim=-1)], dim=-1)
    torch.testing.assert_close(turned(heads), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_turn_is_its_own_inverse_and_changes_no_product(kernels: Kernels, size: int):
    queries, keys = random(5, 2, size), random(5, 2, size, seed=1)
    torch.testing.assert_close(turned(turned(queries)), queries)
    products = (turned(queries) * turned(keys)).sum(-1)
    torch.testing.assert_close(products, (queries * keys).sum(-1), rtol=1e-4, atol=1e-5)


def test_a_turn_spreads_one_large_number():
    keys = torch.full((1, 64), 0.01)
    keys[0, 3] = 10.0
    exact = (rounded(turned(keys)) - turned(keys)).norm()
    assert exact < 0.4 * (rounded(keys) - keys).norm()


@pytest.mark.parametrize("size", SIZES)
def test_what_is_remembered_in_int8_is_what_is_rounded_elsewhere(kernels: Kernels, size: int):
    keys, values = random(2, 3, size), random(2, 3, size, seed=1)
    arena = KV.zeros((5, 3, 6, size), "int8", torch.float32)
    remember(keys, values, arena, torch.tensor([4, 1]), torch.tensor([5, 0]))
    found_keys, found_values = arena.exact
    assert torch.equal(found_keys[4, :, 5], rounded(keys)[0])
    assert torch.equal(found_values[1, :, 0], rounded(values)[1])
    assert found_keys.count_nonzero() == rounded(keys).count_nonzero()


def test_what_is_kept_is_a_quarter_and_stands_for_what_is_rounded():
    keys, values = random(7, 3, 64), random(7, 3, 64, seed=1)
    kept = KV.keep(keys, values, "int8")
    assert kept.storage == "int8"
    assert sum(tensor.nbytes for tensor in kept.tensors) == 2 * 7 * 3 * (64 + 4)
    assert torch.equal(kept.exact[0], rounded(keys))
    assert torch.equal(KV.keep(keys, values, "f32").exact[1], values)
