"""From logits to tokens: temperature, penalties, filters, and one uniform number per draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from groat.kernels.attend import draw_tokens
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
    if params.temperature != 0 and barred and _nothing_else_restricts(params):
        return _draw_barred(logits_SV, uniforms_S, barred)
    kept_SV = _restricted(logits_SV, params, seen, barred)
    if params.temperature == 0:
        token_ids_S, kept_lse_S = kept_SV.argmax(-1), kept_SV.logsumexp(-1)
    else:
        token_ids_S, kept_lse_S = draw_tokens(kept_SV, uniforms_S)
    chosen_S1 = token_ids_S[:, None]
    sampler_logprobs_S = kept_SV.gather(1, chosen_S1)[:, 0] - kept_lse_S
    if kept_SV is logits_SV:
        return Draw(token_ids_S, sampler_logprobs_S, sampler_logprobs_S)
    policy_logprobs_S = logits_SV.gather(1, chosen_S1)[:, 0] - logits_SV.logsumexp(-1)
    return Draw(token_ids_S, sampler_logprobs_S, policy_logprobs_S)


def _nothing_else_restricts(params: SamplingParams) -> bool:
    return params.repetition_penalty == 1 and params.top_k == 0 and params.top_p == 1 and not params.min_p


def _draw_barred(
    logits_SV: torch.Tensor, uniforms_S: torch.Tensor, barred: Sequence[tuple[int, Sequence[int]]]
) -> Draw:
    """A few tokens barred and nothing else: the policy's log-sum-exp is that of what is left plus what was barred."""
    missing_S = logits_SV.new_full((len(logits_SV),), -torch.inf)
    for row, token_ids in barred:
        missing_S[row] = logits_SV[row, list(token_ids)].logsumexp(-1)
        logits_SV[row, list(token_ids)] = -torch.inf
    token_ids_S, kept_lse_S = draw_tokens(logits_SV, uniforms_S)
    chosen_S = logits_SV.gather(1, token_ids_S[:, None])[:, 0]
    return Draw(token_ids_S, chosen_S - kept_lse_S, chosen_S - torch.logaddexp(kept_lse_S, missing_S))


def _restricted(
    logits_SV: torch.Tensor,
    params: SamplingParams,
    seen: Sequence[torch.Tensor] | None,
    barred: Sequence[tuple[int, Sequence[int]]],
) -> torch.Tensor:
    """The logits with what must not be drawn at -inf; the same tensor where nothing is restricted."""
    kept_SV = logits_SV
    if params.repetition_penalty != 1 and seen is not None:
        kept_SV = _penalized(kept_SV.clone(), seen, params.repetition_penalty)
    if barred:
        kept_SV = kept_SV.clone() if kept_SV is logits_SV else kept_SV
        for row, token_ids in barred:
            kept_SV[row, list(token_ids)] = -torch.inf
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
