"""One step of AdamW whose moments are stored in 8 bits (arXiv:2110.02861), by a compiled kernel or by torch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import ClassVar

import torch

from groat.kernels.codes import dynamic_code, dynamic_middles
from groat.kernels.native import native_for

BLOCK = 256
"""Numbers with a scale of their own."""


class AdamWNumbers(ctypes.Structure):
    """What all parameters share in a step: the rate, AdamW's settings, and 1 - beta^t for both betas."""

    _fields_: ClassVar = [
        (name, ctypes.c_float)
        for name in ("rate", "beta1", "beta2", "epsilon", "weight_decay", "correction1", "correction2")
    ]


@dataclass(frozen=True, eq=False)
class Moment8:
    """Numbers as bytes: a code's value times the largest magnitude of their block."""

    codes: torch.Tensor
    scales: torch.Tensor
    signed: bool

    @classmethod
    def zeros_like(cls, parameter: torch.Tensor, *, signed: bool) -> Moment8:
        """Memory is taken at once."""
        count = parameter.numel()
        zero = int((dynamic_code(signed=signed) == 0).nonzero()[0])
        codes = torch.full((count,), zero, dtype=torch.uint8, device=parameter.device)
        return cls(codes, torch.empty(-(-count // BLOCK), device=parameter.device).zero_(), signed)

    def pointers(self) -> tuple[int, int, int, int]:
        """As the kernel takes them: codes, scales, the code's values and the middles between them."""
        code, middles = dynamic_code(signed=self.signed), dynamic_middles(signed=self.signed)
        return self.codes.data_ptr(), self.scales.data_ptr(), code.data_ptr(), middles.data_ptr()

    def widened(self) -> torch.Tensor:
        """The numbers, in fp32."""
        scales = self.scales.repeat_interleave(BLOCK)[: len(self.codes)]
        return scales * dynamic_code(signed=self.signed).to(self.codes.device)[self.codes.int()]

    def store(self, values: torch.Tensor) -> None:
        """Round to the nearest code; of squares, none that is above zero becomes zero."""
        blocks = torch.nn.functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
        self.scales.copy_(blocks.abs().amax(1))
        scales = self.scales.repeat_interleave(BLOCK)[: len(values)]
        relative = torch.where(scales > 0, values / scales, 0.0)
        codes = torch.bucketize(relative, dynamic_middles(signed=self.signed).to(values.device))
        if not self.signed:
            codes = torch.where(relative > 0, codes.clamp(min=1), codes)
        self.codes.copy_(codes)


def adamw_8bit_(
    parameter: torch.Tensor, grad: torch.Tensor, mean: Moment8, square: Moment8, numbers: AdamWNumbers
) -> None:
    """Move a parameter and its moments, in place."""
    assert parameter.is_contiguous()
    grad = grad.contiguous()
    native = native_for(parameter, grad)
    if native is None:
        _by_torch(parameter, grad, mean, square, numbers)
        return
    native.groat_adamw_8bit(
        *(parameter.data_ptr(), grad.data_ptr(), parameter.numel()),
        *mean.pointers(),
        *square.pointers(),
        *(ctypes.addressof(numbers), torch.get_num_threads()),
    )


def _by_torch(
    parameter: torch.Tensor, grad: torch.Tensor, mean: Moment8, square: Moment8, numbers: AdamWNumbers
) -> None:
    flat = grad.flatten()
    means = mean.widened().mul_(numbers.beta1).add_(flat, alpha=1 - numbers.beta1)
    squares = square.widened().mul_(numbers.beta2).addcmul_(flat, flat, value=1 - numbers.beta2)
    step = (means / numbers.correction1).div_((squares / numbers.correction2).sqrt_().add_(numbers.epsilon))
    parameter.mul_(1 - numbers.rate * numbers.weight_decay).sub_(step.view_as(parameter), alpha=numbers.rate)
    mean.store(means)
    square.store(squares)
