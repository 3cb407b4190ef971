"""Log-probabilities of chosen tokens without a logits tensor: the head works on a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch

from groat.kernels.matrix import Matrix
from groat.kernels.ops import product, straight_product, token_logprob_gradient_, token_logprobs


class _ChunkedLogprobs(torch.autograd.Function):
    """Saves the rows it was given and one log-sum-exp per row; backward computes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_NH: torch.Tensor,
        head_VH: Matrix,
        token_ids_N: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_N, lse_N, entropy_N = (rows_NH.new_empty(len(rows_NH)) for _ in range(3))
        for part, logits_CV in _logits(rows_NH, head_VH, temperature, chunk):
            logprobs_N[part], lse_N[part], entropy_N[part] = token_logprobs(logits_CV, token_ids_N[part])
        ctx.save_for_backward(rows_NH, token_ids_N, lse_N)
        ctx.head_VH, ctx.temperature, ctx.chunk = head_VH, temperature, chunk
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        rows_NH, token_ids_N, lse_N = ctx.saved_tensors
        grad_N = grads[0] / ctx.temperature
        grad_rows_NH = torch.empty_like(rows_NH)
        for part, logits_CV in _logits(rows_NH, ctx.head_VH, ctx.temperature, ctx.chunk):
            token_logprob_gradient_(logits_CV, token_ids_N[part], lse_N[part], grad_N[part])
            grad_rows_NH[part] = straight_product(logits_CV, ctx.head_VH)
        return grad_rows_NH, None, None, None, None


def _logits(
    rows_NH: torch.Tensor, head_VH: Matrix, temperature: float, chunk: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The logits of a chunk of rows after the other, all in the same place."""
    room_CV = rows_NH.new_empty(min(chunk, len(rows_NH)), head_VH.shape[0])
    for start in range(0, len(rows_NH), chunk):
        part = slice(start, min(start + chunk, len(rows_NH)))
        logits_CV = product(rows_NH[part], head_VH, out=room_CV[: part.stop - start])
        yield part, logits_CV if temperature == 1 else logits_CV.div_(temperature)


def chunked_logprobs(
    rows_NH: torch.Tensor, head_VH: Matrix, token_ids_N: torch.Tensor, temperature: float, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (differentiable) and entropies (not) of N tokens in nats, under the policy at `temperature`.

    `rows_NH` are final-normed hidden states. At most `chunk` x V logits exist at one time.
    """
    return cast(
        tuple[torch.Tensor, torch.Tensor],
        _ChunkedLogprobs.apply(rows_NH, head_VH, token_ids_N, temperature, chunk),
    )
