"""NF4 rounded for the inputs: the same format, less damage, and the optimal answer to each rounding error."""

import pytest
import torch

from groat.kernels.calibrated import InputMoments, to_calibrated_nf4
from groat.kernels.codes import nf4_code
from groat.kernels.matrix import dense_of, tensors_of
from groat.kernels.native import choose_kernels
from groat.kernels.nf4 import NF4Matrix, to_nf4


def random_moments(inputs: int, seed: int = 0) -> InputMoments:
    generator = torch.Generator().manual_seed(seed)
    return InputMoments(
        diagonal_K=torch.rand(inputs, generator=generator) + 0.1,
        directions_KD=torch.randn(inputs, 4, generator=generator),
    )


def random_weights(rows: int, columns: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def damage(matrix: NF4Matrix, weight_NK: torch.Tensor, moments: InputMoments) -> float:
    """E[(error . x)^2] summed over outputs."""
    error_NK = dense_of(matrix) - weight_NK
    along_ND = error_NK @ moments.directions_KD
    return ((error_NK.square() @ moments.diagonal_K).sum() + along_ND.square().sum()).item()


@pytest.mark.parametrize("shape", [(5, 64), (40, 192), (7, 24), (33, 100), (3, 7), (1, 1)])
def test_compiled_and_torch_round_alike_whatever_the_width(shape: tuple[int, int]) -> None:
    weight_NK, moments = random_weights(*shape), random_moments(shape[1])
    compiled = to_calibrated_nf4(weight_NK, moments)
    try:
        choose_kernels("torch")
        by_torch = to_calibrated_nf4(weight_NK, moments)
    finally:
        choose_kernels("auto")
    # A last bit of an intermediate may decide a tie; what counts must agree.
    assert damage(compiled, weight_NK, moments) == pytest.approx(damage(by_torch, weight_NK, moments), rel=1e-2)
    same = (compiled.packed == by_torch.packed).float().mean().item()
    assert same > 0.99


@pytest.mark.parametrize("shape", [(40, 192), (33, 100)])
def test_the_format_and_the_bytes_are_those_of_plain_nf4(shape: tuple[int, int]) -> None:
    weight_NK = random_weights(*shape)
    plain, rounded = to_nf4(weight_NK), to_calibrated_nf4(weight_NK, random_moments(shape[1]))
    layouts = [[(tensor.shape, tensor.dtype) for tensor in tensors_of(matrix)] for matrix in (plain, rounded)]
    assert layouts[0] == layouts[1]


def test_inputs_with_strong_directions_see_a_third_of_the_damage() -> None:
    weight_NK, moments = random_weights(64, 256), random_moments(256)
    plain = damage(to_nf4(weight_NK), weight_NK, moments)
    assert damage(to_calibrated_nf4(weight_NK, moments), weight_NK, moments) < plain / 3


def test_inputs_of_which_nothing_is_known_still_get_better_scales() -> None:
    weight_NK, moments = random_weights(64, 256), InputMoments.alike(256)
    plain = damage(to_nf4(weight_NK), weight_NK, moments)
    assert damage(to_calibrated_nf4(weight_NK, moments), weight_NK, moments) < plain


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert not dense_of(to_calibrated_nf4(torch.zeros(4, 96), random_moments(96))).any()


def test_each_rounding_error_is_answered_as_the_dense_least_squares_says() -> None:
    """Column by column: with the errors so far fixed, solve for all others at once and round the next one's optimum."""
    inputs, moments = 12, random_moments(12)
    weight_NK = random_weights(1, inputs)
    rounded = to_calibrated_nf4(weight_NK, moments)
    block_scale = (rounded.rows(torch.tensor([0])).abs() / nf4_code()[_codes(rounded)].abs())[0]
    scale = block_scale[block_scale.isfinite()][0]
    moments_KK = torch.diag(moments.diagonal_K) + moments.directions_KD @ moments.directions_KD.T
    order = moments.total().argsort(descending=True).tolist()
    errors, codes = torch.zeros(inputs), torch.zeros(inputs, dtype=torch.long)
    for step, column in enumerate(order):
        past, free = order[:step], order[step:]
        if past:
            pulled = moments_KK[free][:, past] @ errors[past]
            wished = -torch.linalg.solve(moments_KK[free][:, free], pulled)[0]
        else:
            wished = torch.tensor(0.0)
        codes[column] = (nf4_code() * scale - (weight_NK[0, column] + wished)).abs().argmin()
        errors[column] = nf4_code()[codes[column]] * scale - weight_NK[0, column]
    assert _codes(rounded).tolist() == codes.tolist()


def _codes(matrix: NF4Matrix) -> torch.Tensor:
    return torch.stack([matrix.packed >> 4, matrix.packed & 15], 1).flatten()[: matrix.num_columns].long()
