"""Values by number, which NF4 weights and the 8-bit states of AdamW are rounded to."""

from __future__ import annotations

import functools

import torch

from groat.kernels.quantized import SMALLEST


@functools.cache
def nf4_code() -> torch.Tensor:
    """The 16 values of NF4 (QLoRA, appendix E), fp32."""
    below = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
    below += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
    above = [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    above += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    return torch.tensor(below + above)


@functools.cache
def dynamic_code(*, signed: bool = True) -> torch.Tensor:
    """The 256 values of dynamic 8-bit quantization (arXiv:2110.02861, section 1.3), fp32, ascending.

    Seven decades; the i-th holds 2^i values of either sign, centres of equal parts of [0.1, 1]; then 0 and 1. Without a
    sign its bit makes every decade twice as fine.
    """
    values = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade if signed else decade + 1) + 1)
        centres = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        values += centres + [-centre for centre in centres if signed]
    return torch.tensor(sorted(values))


@functools.cache
def nf4_middles() -> torch.Tensor:
    return _middles(nf4_code())


@functools.cache
def dynamic_middles(*, signed: bool = True) -> torch.Tensor:
    """Between neighbours of `dynamic_code`: where the nearest value changes."""
    return _middles(dynamic_code(signed=signed))


def _middles(code: torch.Tensor) -> torch.Tensor:
    return (code[:-1] + code[1:]) / 2


def nearest(values: torch.Tensor, code: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of the nearest code value for each value relative to its block's largest; and those largest."""
    size, tail = len(values), len(values) % block
    whole = torch.nn.functional.pad(values, (0, -size % block)).view(-1, block)
    scales = whole.abs().amax(1)
    divisors = scales.clamp(min=SMALLEST)[:, None]
    # Whole blocks times the reciprocal, an unfinished one divided: the last bit decides some bytes.
    relative = whole * (1.0 / divisors)
    if tail:
        relative[-1] = whole[-1] / divisors[-1]
    return torch.bucketize(relative.flatten()[:size], _middles(code)).to(torch.uint8), scales
