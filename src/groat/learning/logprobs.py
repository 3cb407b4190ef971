"""Log-probabilities of chosen tokens, and entropies, without a logits tensor: the head works on a chunk of rows at a
time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch

from groat.kernels.matrix import Matrix
from groat.kernels.ops import product, straight_product, token_logprob_gradient_, token_logprobs
from groat.kernels.rooms import room_like


class _ChunkedLogprobs(torch.autograd.Function):
    """Forward finds each row's gradient while it has the logits; backward has only to scale it. Saves nothing else."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_NH: torch.Tensor,
        head_VH: Matrix,
        token_ids_N: torch.Tensor,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
        is_greedy_N: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_N, lse_N, entropy_N = (rows_NH.new_empty(len(rows_NH)) for _ in range(3))
        grad_NH = room_like(rows_NH, *rows_NH.shape) if ctx.needs_input_grad[0] else None
        entropy_grad_NH = torch.empty_like(rows_NH) if ctx.needs_input_grad[0] and entropy_gradient else None
        ones_N = rows_NH.new_full((len(rows_NH),), 1 / temperature)
        for part, logits_CV in _logits(rows_NH, head_VH, temperature, chunk):
            if is_greedy_N is not None:
                is_greedy_N[part] = logits_CV.gather(1, token_ids_N[part, None])[:, 0] >= logits_CV.amax(1)
            logprobs_N[part], lse_N[part], entropy_N[part] = token_logprobs(logits_CV, token_ids_N[part])
            if entropy_grad_NH is not None:
                gradient_CV = _entropy_gradient(logits_CV, lse_N[part], entropy_N[part], temperature)
                entropy_grad_NH[part] = straight_product(gradient_CV, head_VH)
            if grad_NH is not None:
                token_logprob_gradient_(logits_CV, token_ids_N[part], lse_N[part], ones_N[part])
                grad_NH[part] = straight_product(logits_CV, head_VH)
        ctx.save_for_backward(grad_NH, entropy_grad_NH)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None, None]:
        grad_NH, entropy_grad_NH = ctx.saved_tensors
        total_NH = grad_NH * grads[0][:, None]
        if entropy_grad_NH is not None:
            total_NH.addcmul_(entropy_grad_NH, grads[1][:, None])
        return total_NH, None, None, None, None, None, None


def _entropy_gradient(
    logits_CV: torch.Tensor, lse_C: torch.Tensor, entropy_C: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Of each row's entropy with respect to its logits before they were divided by the temperature."""
    logprobs_CV = logits_CV - lse_C[:, None]
    return logprobs_CV.exp().mul_(logprobs_CV.add_(entropy_C[:, None])).mul_(-1 / temperature)


def _logits(
    rows_NH: torch.Tensor, head_VH: Matrix, temperature: float, chunk: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The logits of a chunk of rows after the other, all in the same place."""
    room_CV = room_like(rows_NH, min(chunk, len(rows_NH)), head_VH.shape[0])
    for start in range(0, len(rows_NH), chunk):
        part = slice(start, min(start + chunk, len(rows_NH)))
        logits_CV = product(rows_NH[part], head_VH, out=room_CV[: part.stop - start])
        yield part, logits_CV if temperature == 1 else logits_CV.div_(temperature)


def chunked_logprobs(
    rows_NH: torch.Tensor,
    head_VH: Matrix,
    token_ids_N: torch.Tensor,
    temperature: float,
    chunk: int,
    *,
    entropy_gradient: bool = False,
    is_greedy_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (differentiable) and entropies (only if asked for) of N tokens in nats, under the policy at
    `temperature`. A tensor of yes and no is filled with whether each token was the likeliest.

    `rows_NH` are final-normed hidden states. At most `chunk` x V logits exist at one time; a gradient of the entropy
    takes two more of these, and another N x H until backward.
    """
    return cast(
        tuple[torch.Tensor, torch.Tensor],
        _ChunkedLogprobs.apply(rows_NH, head_VH, token_ids_N, temperature, chunk, entropy_gradient, is_greedy_N),
    )
