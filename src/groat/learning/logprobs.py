"""Log-probabilities of chosen tokens without a logits tensor: the head works on a chunk of rows at a time."""

from __future__ import annotations

from typing import Any, cast

import torch


class _ChunkedLogprobs(torch.autograd.Function):
    """Saves the rows it was given and one log-sum-exp per row; backward computes each chunk's logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_NH: torch.Tensor,
        head_VH: torch.Tensor,
        token_ids_N: torch.Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs_N, lse_N, entropy_N = (rows_NH.new_empty(len(rows_NH)) for _ in range(3))
        for part in _chunks(len(rows_NH), chunk):
            logits_CV = _logits(rows_NH[part], head_VH, temperature)
            lse_N[part] = logits_CV.logsumexp(-1)
            all_logprobs_CV = logits_CV.sub_(lse_N[part, None])
            logprobs_N[part] = all_logprobs_CV.gather(1, token_ids_N[part, None])[:, 0]
            entropy_N[part] = -torch.linalg.vecdot(all_logprobs_CV.exp(), all_logprobs_CV)
        ctx.save_for_backward(rows_NH, head_VH, token_ids_N, lse_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        rows_NH, head_VH, token_ids_N, lse_N = ctx.saved_tensors
        grad_N = grads[0] / ctx.temperature
        grad_rows_NH = torch.zeros_like(rows_NH)
        for part in _chunks(len(rows_NH), ctx.chunk):
            weights_CV = _logits(rows_NH[part], head_VH, ctx.temperature).sub_(lse_N[part, None]).exp_()
            weights_CV.mul_(-grad_N[part, None])
            weights_CV.scatter_add_(1, token_ids_N[part, None], grad_N[part, None])
            torch.mm(weights_CV, head_VH, out=grad_rows_NH[part])
        return grad_rows_NH, None, None, None, None


def _chunks(total: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, total)) for start in range(0, total, chunk)]


def _logits(rows_CH: torch.Tensor, head_VH: torch.Tensor, temperature: float) -> torch.Tensor:
    logits_CV = rows_CH @ head_VH.T
    return logits_CV if temperature == 1 else logits_CV.div_(temperature)


def chunked_logprobs(
    rows_NH: torch.Tensor, head_VH: torch.Tensor, token_ids_N: torch.Tensor, temperature: float, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs (differentiable) and entropies (not) of N tokens in nats, under the policy at `temperature`.

    `rows_NH` are final-normed hidden states. At most `chunk` x V logits exist at one time, twice over.
    """
    return cast(
        tuple[torch.Tensor, torch.Tensor],
        _ChunkedLogprobs.apply(rows_NH, head_VH, token_ids_N, temperature, chunk),
    )
