"""From logits to tokens: temperature, penalties, filters, and one uniform number per draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from groat.kernels.draw import draw_tokens
from groat.sampling.base import SamplingParams

_OFTEN_ENOUGH = 1024
"""So many of the likeliest tokens hold most nuclei; sorting all of a vocabulary takes longer than the model does."""


class Draw(NamedTuple):
    """One token per row, with its log-prob as drawn and under the plain policy, in nats."""

    token_ids_S: torch.Tensor
    sampler_logprobs_S: torch.Tensor
    policy_logprobs_S: torch.Tensor


class Barred(NamedTuple):
    """Tokens that some rows may not draw yet."""

    rows: Sequence[int]
    token_ids: Sequence[int]


def draw(
    logits_SV: torch.Tensor,
    params: SamplingParams,
    uniforms_S: torch.Tensor,
    seen: Sequence[torch.Tensor] | None = None,
    barred: Barred | None = None,
) -> Draw:
    """Draw one token per row; consumes `logits_SV`.

    `seen` holds each row's earlier token ids (needed by the repetition penalty). A token is found by its place in the
    cumulative distribution, so one uniform number decides it and a row's draw does not depend on other rows.
    """
    if params.temperature not in (0, 1):
        logits_SV = logits_SV.div_(params.temperature)
    barred_lse_S = _bar(logits_SV, barred) if barred and barred.rows else None
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


def _bar(logits_SV: torch.Tensor, barred: Barred) -> torch.Tensor:
    """Put what may not be drawn at -inf, in place; returns the log-sum-exp of what that took from each row."""
    rows_R1, token_ids = torch.tensor(barred.rows)[:, None], torch.tensor(barred.token_ids, dtype=torch.long)
    barred_lse_S = logits_SV.new_full((len(logits_SV),), -torch.inf)
    barred_lse_S[rows_R1[:, 0]] = logits_SV[rows_R1, token_ids].logsumexp(-1)
    logits_SV[rows_R1, token_ids] = -torch.inf
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
    lse_S1, vocabulary = logits_SV.logsumexp(-1, keepdim=True), logits_SV.shape[1]
    for count in (min(_OFTEN_ENOUGH, vocabulary), vocabulary):
        likeliest_SC, token_ids_SC = logits_SV.topk(count, dim=-1)
        probabilities_SC = (likeliest_SC - lse_S1).exp_()
        before_SC = probabilities_SC.cumsum(-1) - probabilities_SC
        if count == vocabulary or bool((before_SC[:, -1] >= top_p).all()):
            break
    kept_SC = likeliest_SC.masked_fill(before_SC >= top_p, -torch.inf)
    return torch.full_like(logits_SV, -torch.inf).scatter_(1, token_ids_SC, kept_SC)
