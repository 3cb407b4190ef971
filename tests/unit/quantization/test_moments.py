import pytest
import torch

from groat.kernels.calibrated import InputMoments
from groat.quantization.moments import find_moments, pack_moments, unpack_moments


def inputs_with_directions(tokens: int, inputs: int) -> torch.Tensor:
    """Noise, and two directions that are ten times as strong."""
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(tokens, 2, generator=generator) @ torch.randn(2, inputs, generator=generator) * 10
    return strong + torch.randn(tokens, inputs, generator=generator)


def dense(moments: InputMoments) -> torch.Tensor:
    return torch.diag(moments.diagonal_K) + moments.directions_KD @ moments.directions_KD.T


def test_the_strong_directions_of_the_second_moments_are_found() -> None:
    input_TK = inputs_with_directions(400, 50)
    exact_KK = input_TK.T @ input_TK / len(input_TK) / input_TK.square().mean()
    found_KK = dense(find_moments(input_TK, torch.Generator().manual_seed(1)))
    assert (found_KK - exact_KK).norm() / exact_KK.norm() < 0.01
    # The diagonal is exact, but for the little that is added to every input.
    assert torch.allclose(found_KK.diagonal(), exact_KK.diagonal() + 0.03, atol=1e-4)


@pytest.mark.parametrize("inputs", [1, 3, 24, 50])
def test_packing_keeps_the_moments_to_a_few_percent(inputs: int) -> None:
    moments = find_moments(inputs_with_directions(100, inputs), torch.Generator().manual_seed(1))
    packed = pack_moments(moments)
    unpacked = unpack_moments(packed, inputs)
    assert (dense(unpacked) - dense(moments)).norm() / dense(moments).norm() < 0.05
    assert pack_moments(unpacked) == packed


def test_nothing_known_unpacks_to_inputs_that_are_all_alike() -> None:
    assert torch.equal(dense(unpack_moments("", 5)), torch.eye(5))


def test_inputs_that_are_all_zero_do_no_harm() -> None:
    moments = unpack_moments(pack_moments(find_moments(torch.zeros(10, 8), torch.Generator().manual_seed(1))), 8)
    assert dense(moments).isfinite().all()
