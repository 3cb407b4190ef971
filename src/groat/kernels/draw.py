"""A token per row of logits, found by one uniform number's place in the distribution."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from groat.kernels.native import native_for


class Drawn(NamedTuple):
    token_ids_S: torch.Tensor
    lse_S: torch.Tensor


def draw_tokens(logits_SV: torch.Tensor, uniforms_S: torch.Tensor) -> Drawn:
    """Per row, the token at `uniform` of the way through softmax(logits), and the log-sum-exp of the logits."""
    native = native_for(logits_SV)
    if native is None or not math.prod(logits_SV.shape):
        return Drawn(_from_uniforms(logits_SV, uniforms_S), logits_SV.logsumexp(-1))
    uniforms_S = uniforms_S.double().contiguous()
    token_ids_S = torch.empty(len(logits_SV), dtype=torch.long)
    lse_S = logits_SV.new_empty(len(logits_SV))
    native.groat_draw(
        *(logits_SV.data_ptr(), logits_SV.stride(0), uniforms_S.data_ptr(), token_ids_S.data_ptr(), lse_S.data_ptr()),
        *(*logits_SV.shape, torch.get_num_threads()),
    )
    return Drawn(token_ids_S, lse_S)


def _from_uniforms(logits_SV: torch.Tensor, uniforms_S: torch.Tensor) -> torch.Tensor:
    # Shifted by the row's largest logit, so that the running sum neither overflows nor loses the likely tokens.
    cumulative_SV = (logits_SV - logits_SV.amax(-1, keepdim=True)).exp_().cumsum(-1)
    thresholds_S1 = uniforms_S[:, None].to(cumulative_SV.dtype) * cumulative_SV[:, -1:]
    found_S = torch.searchsorted(cumulative_SV, thresholds_S1, right=True)[:, 0]
    # A threshold rounded up to the total would fall behind the last token that can be drawn.
    last_S = (cumulative_SV < cumulative_SV[:, -1:]).sum(-1)
    return torch.minimum(found_S, last_S)
