"""From logits to tokens: temperature, penalties, filters, and one uniform number per draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from groat.kernels.draw import draw_tokens
from groat.sampling.base import SamplingParams


class Draw(NamedTuple):
    """One token per row, with its log-prob as drawn and under the plain policy, in nats."""

    token_ids_S: torch.Tensor
    sampler_logprobs_S: torch.Tensor
    policy_logprobs_S: torch.Tensor


def draw(
    logits_SV: torch.Tensor,
    params: SamplingParams,
    uniforms_S: torch.Tensor,
    seen: Sequence[torch.Tensor] | None,
    barred: Sequence[tuple[int, Sequence[int]]],
) -> Draw:
    """Draw one token per row; consumes `logits_SV`.

    `seen` holds each row's earlier token ids (needed by the repetition penalty); `barred` lists rows and the
    token ids they may not draw yet. A token is found by its place in the cumulative distribution, so one uniform
    number decides it and a row's draw does not depend on other rows.
    """
    if params.temperature not in (0, 1):
        logits_SV = logits_SV.div_(params.temperature)
    barred_lse_S = _bar(logits_SV, barred) if barred else None
    kept_SV = _restricted(logits_SV, params, seen)
    if params.temperature == 0:
        token_ids_S, kept_lse_S = kept_SV.argmax(-1), kept_SV.logsumexp(-1)
    else:
        token_ids_S, kept_lse_S = draw_tokens(kept_SV, uniforms_S)
    chosen_S1 = token_ids_S[:, None]
    sampler_logprobs_S = kept_SV.gather(1, chosen_S1)[:, 0] - kept_lse_S
    if kept_SV is logits_SV and barred_lse_S is None:
        return Draw(token_ids_S, sampler_logprobs_S, sampler_logprobs_S)
    policy_lse_S = kept_lse_S if kept_SV is logits_SV else logits_SV.logsumexp(-1)
    if barred_lse_S is not None:
        policy_lse_S = torch.logaddexp(policy_lse_S, barred_lse_S)
    return Draw(token_ids_S, sampler_logprobs_S, logits_SV.gather(1, chosen_S1)[:, 0] - policy_lse_S)


def _bar(logits_SV: torch.Tensor, barred: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
    """Put what may not be drawn at -inf, in place; returns the log-sum-exp of what that took from each row."""
    barred_lse_S = logits_SV.new_full((len(logits_SV),), -torch.inf)
    for row, token_ids in barred:
        barred_lse_S[row] = logits_SV[row, list(token_ids)].logsumexp(-1)
        logits_SV[row, list(token_ids)] = -torch.inf
    return barred_lse_S


def _restricted(
    logits_SV: torch.Tensor,
    params: SamplingParams,
    seen: Sequence[torch.Tensor] | None,
) -> torch.Tensor:
    """The logits with what must not be drawn at -inf; the same tensor where nothing is restricted."""
    kept_SV = logits_SV
    if params.repetition_penalty != 1 and seen is not None:
        kept_SV = _penalized(kept_SV.clone(), seen, params.repetition_penalty)
    if params.temperature == 0:
        return kept_SV
    if 0 < params.top_k < kept_SV.shape[1]:
        least_S1 = kept_SV.topk(params.top_k, dim=-1).values[:, -1:]
        kept_SV = kept_SV.masked_fill(kept_SV < least_S1, -torch.inf)
    if params.top_p < 1:
        kept_SV = _nucleus(kept_SV, params.top_p)
    if params.min_p:
        least_S1 = kept_SV.amax(-1, keepdim=True) + torch.tensor(params.min_p).log()
        kept_SV = kept_SV.masked_fill(kept_SV < least_S1, -torch.inf)
    return kept_SV


def _penalized(logits_SV: torch.Tensor, seen: Sequence[torch.Tensor], penalty: float) -> torch.Tensor:
    for row, token_ids in enumerate(seen):
        values = logits_SV[row, token_ids]
        logits_SV[row, token_ids] = torch.where(values > 0, values / penalty, values * penalty)
    return logits_SV


def _nucleus(logits_SV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep the smallest set of likeliest tokens that holds at least top_p (arXiv:1904.09751)."""
    sorted_SV, order_SV = logits_SV.sort(-1, descending=True)
    probabilities_SV = sorted_SV.softmax(-1)
    before_SV = probabilities_SV.cumsum(-1) - probabilities_SV
    sorted_SV = sorted_SV.masked_fill(before_SV >= top_p, -torch.inf)
    return torch.empty_like(logits_SV).scatter_(1, order_SV, sorted_SV)
