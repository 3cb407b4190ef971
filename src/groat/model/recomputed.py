"""Gradient checkpointing (arXiv:1604.06174): of some layers only the input is kept, and they are computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from groat.config.tree import SavedInputs
from groat.model.backward import with_gradient


class _Recomputed(torch.autograd.Function):
    """Saves the input; backward runs the layers again, with gradients, and goes through them at once."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[[torch.Tensor], torch.Tensor],
        saved_inputs: SavedInputs,
        input_TH: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        del parameters  # they make the output differentiable; their gradients are added up by the backward inside
        ctx.save_for_backward(input_TH.bfloat16() if saved_inputs == "bf16" else input_TH)
        ctx.run, ctx.dtype = run, input_TH.dtype
        return run(input_TH)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (saved_TH,) = ctx.saved_tensors
        input_TH = saved_TH.detach().to(ctx.dtype).requires_grad_(ctx.needs_input_grad[2])
        with torch.enable_grad():
            output_TH = ctx.run(input_TH)
        torch.autograd.backward(with_gradient(output_TH, grads[0]))
        return None, None, input_TH.grad, *(None for _ in ctx.needs_input_grad[3:])


def recomputed(
    run: Callable[[torch.Tensor], torch.Tensor],
    input_TH: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    saved_inputs: SavedInputs,
) -> torch.Tensor:
    """`run(input)`, whose activations exist again only during its own part of backward.

    `parameters` are the trained tensors that `run` uses: leaves, whose `grad` grows as in any backward.
    """
    return cast(torch.Tensor, _Recomputed.apply(run, saved_inputs, input_TH, *parameters))
