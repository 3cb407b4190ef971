"""The second moments of a matrix's inputs, found in what it saw, and packed into few bytes."""

from __future__ import annotations

import base64

import numpy as np
import torch

from groat.kernels.calibrated import InputMoments
from groat.memory.sensitivities import NUM_DIRECTIONS, inputs_bytes

_EXTRA, _ROUNDS = 6, 4
_LEAST = 0.03
"""Of the mean of E[x^2], added to every input: a text of a thousand tokens cannot show that one does not matter."""
_STEPS_PER_OCTAVE, _OCTAVES_BELOW_ONE = 8, 8


def find_moments(input_TK: torch.Tensor, generator: torch.Generator) -> InputMoments:
    """E[x x'] of these rows, with the directions in which it is largest; scaled to a mean of E[x^2] of 1."""
    input_TK = input_TK / input_TK.square().mean().clamp(min=1e-30).sqrt()
    directions_KD = _largest_directions(input_TK, generator)
    rest_K = (input_TK.square().mean(0) - directions_KD.square().sum(1)).clamp_(min=0)
    return InputMoments(diagonal_K=rest_K + _LEAST, directions_KD=directions_KD)


def _largest_directions(input_TK: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Eigenvectors of E[x x'] times the roots of their eigenvalues, by subspace iteration: no [K, K] matrix."""
    tokens, inputs = input_TK.shape
    basis_KS = torch.randn(inputs, min(NUM_DIRECTIONS + _EXTRA, inputs), generator=generator)
    for _ in range(_ROUNDS):
        basis_KS = torch.linalg.qr(input_TK.T @ (input_TK @ torch.linalg.qr(basis_KS).Q)).Q
    _, sizes_S, turns_SS = torch.linalg.svd(input_TK @ basis_KS, full_matrices=False)
    directions_KS = basis_KS @ turns_SS.T * (sizes_S / tokens**0.5)
    kept_KD = directions_KS[:, :NUM_DIRECTIONS]
    return torch.nn.functional.pad(kept_KD, (0, NUM_DIRECTIONS - kept_KD.shape[1])).contiguous()


def pack_moments(moments: InputMoments) -> str:
    """A byte per input for the diagonal (steps of an eighth of an octave) and one per input and direction; base64."""
    octaves_K = moments.diagonal_K.log2() + _OCTAVES_BELOW_ONE
    diagonal_K = (octaves_K * _STEPS_PER_OCTAVE).round().clamp(0, 255).to(torch.uint8)
    scales_D = moments.directions_KD.abs().amax(0).clamp(min=1e-30) / 127
    directions_KD = (moments.directions_KD / scales_D).round().to(torch.int8)
    raw = scales_D.numpy().astype("<f4").tobytes() + diagonal_K.numpy().tobytes() + directions_KD.numpy().tobytes()
    assert len(raw) == inputs_bytes(len(diagonal_K))
    return base64.b64encode(raw).decode()


def unpack_moments(packed: str, num_inputs: int) -> InputMoments:
    """What `pack_moments` kept; inputs of which nothing is known for an empty text."""
    raw = base64.b64decode(packed)
    if not raw:
        return InputMoments.alike(num_inputs)
    start = 4 * NUM_DIRECTIONS
    scales_D = torch.from_numpy(np.frombuffer(raw[:start], "<f4").astype(np.float32))
    diagonal_K = torch.from_numpy(np.frombuffer(raw[start : start + num_inputs], np.uint8).astype(np.float32))
    directions = np.frombuffer(raw[start + num_inputs :], np.int8).astype(np.float32)
    return InputMoments(
        diagonal_K=torch.exp2(diagonal_K / _STEPS_PER_OCTAVE - _OCTAVES_BELOW_ONE),
        directions_KD=torch.from_numpy(directions).view(num_inputs, NUM_DIRECTIONS) * scales_D,
    )
