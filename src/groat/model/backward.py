"""Backward from a tensor whose gradient is known, without what torch imports for that."""

from __future__ import annotations

from typing import Any, cast

import torch


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output_X: torch.Tensor, grad_X: torch.Tensor) -> torch.Tensor:
        ctx.grad_X = grad_X
        return output_X.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.grad_X, None


def with_gradient(output_X: torch.Tensor, grad_X: torch.Tensor) -> torch.Tensor:
    """A scalar to go backward from: `grad_X` is its gradient with respect to `output_X`. Its value means nothing.

    `torch.autograd.backward(output_X, grad_X)` is the same, but for the 40 MiB of symbolic algebra it brings in.
    """
    with torch.enable_grad():  # a backward inside a backward begins without
        return cast(torch.Tensor, _WithGradient.apply(output_X, grad_X))
