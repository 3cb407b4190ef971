"""What scoring takes of one layer, against what the compiled kernels really ask for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from known_specs import SMOLLM2_135M
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.config.tree import RunConfig
from groat.kernels import layers as compiled
from groat.kernels.native import native_for
from groat.kernels.rooms import room_like
from groat.memory.phases import score_bytes
from groat.memory.plan import plan_memory
from groat.memory.sizes import forward_bytes, kv_bytes, layer_activation_bytes, rows_bytes, scoring_bytes
from groat.memory.workload import Workload
from groat.trees import Node

SPEC = replace(SMOLLM2_135M, num_layers=1, vocab_size=64)
TOKENS = 256
RANK = 16


def asked_for(patch: pytest.MonkeyPatch) -> int:
    """Bytes of the rooms of one layer's forward without gradients, and of its input."""
    sizes: list[int] = []

    def counted(like: torch.Tensor, *shape: int) -> torch.Tensor:
        sizes.append(4 * math.prod(shape))
        return room_like(like, *shape)

    decoder, adapter = tiny_decoder(SPEC), tiny_adapter(SPEC, r=RANK)
    token_ids_T = torch.arange(TOKENS) % 64
    patch.setattr(compiled, "room_like", counted)
    with torch.no_grad():
        nodes = (Node(0, TOKENS, TOKENS, is_root=True),)
        decoder.hidden_of_trees(token_ids_T, torch.arange(TOKENS), nodes, adapter)
    assert len(sizes) == 3
    return sum(sizes) + 4 * TOKENS * SPEC.hidden_size


def test_the_plan_counts_what_scoring_keeps_of_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    if native_for() is None:
        pytest.skip("needs the compiled kernels")
    needed = asked_for(monkeypatch)
    counted = TOKENS * scoring_bytes(SPEC, RANK)
    # Weights in fp32 round no row: 1536 + 512 numbers of each token are for those that do.
    rounding = TOKENS * 4 * (SPEC.intermediate_size + 512)
    assert needed <= counted
    assert needed == pytest.approx(counted - rounding, rel=0.02)
    # What was forgotten before, some KiB a token.
    assert needed > TOKENS * (forward_bytes(SPEC) + 8 * 1024)


def test_a_layer_of_smollm2_by_hand() -> None:
    """Kept: 2 x 576 + 2 x 576 + 2 x 192 + 2 x 1536 and 7 ranks of 16; output 576; computed in 576 + 1536, and a rounded
    row of 1536 + 512 numbers."""
    kept = 2 * 576 + 2 * 576 + 2 * 192 + 2 * 1536 + 7 * 16
    assert layer_activation_bytes(SPEC, RANK) == 4 * kept
    assert scoring_bytes(SPEC, RANK) == 4 * (kept + 576 + 576 + 1536 + 1536 + 512)


def test_it_is_in_the_phase_that_scores() -> None:
    work = Workload.of(RunConfig())
    plan = plan_memory(RunConfig(), SMOLLM2_135M, work)
    tokens = work.filled(plan.way.microbatch_tokens)
    parts = score_bytes(SMOLLM2_135M, work, plan.way, RANK, plan.kv_storage)
    assert parts["hidden states"] == tokens * rows_bytes(SMOLLM2_135M)
    assert parts["workspace"] == max(tokens * scoring_bytes(SMOLLM2_135M, RANK), 4 * 256 * 49152)
    assert plan.phases["SCORE"]["workspace"] == parts["workspace"]
    # Of a prompt of 256 tokens, those of the longest beginning that micro-batches share.
    assert parts["prefix"] == 255 * kv_bytes(SMOLLM2_135M, plan.kv_storage)
