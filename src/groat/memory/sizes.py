"""How many bytes each part of a run holds, one function per part. Everything is fp32 so far."""

from __future__ import annotations

from groat.model.spec import ModelSpec

_FLOAT = 4
FRAMEWORK = 330 * 2**20
"""Python, torch and its libraries, measured after a first forward on a CPU."""


def weight_bytes(spec: ModelSpec) -> int:
    """The frozen base; norms and biases are too small to count."""
    per_layer = spec.hidden_size * (2 * spec.query_size + 2 * spec.kv_size + 3 * spec.intermediate_size)
    heads = 1 if spec.tied_head else 2
    return _FLOAT * (spec.num_layers * per_layer + heads * spec.vocab_size * spec.hidden_size)


def adapter_bytes(spec: ModelSpec, rank: int) -> int:
    """The trained weights alone; gradients take as much again, AdamW's two moments twice as much."""
    ins = 3 * spec.hidden_size + spec.query_size + 2 * spec.hidden_size + spec.intermediate_size
    outs = spec.query_size + 2 * spec.kv_size + spec.hidden_size + 2 * spec.intermediate_size + spec.hidden_size
    return _FLOAT * spec.num_layers * rank * (ins + outs)


def layer_input_bytes(spec: ModelSpec) -> int:
    """Per token: what per-layer checkpointing keeps."""
    return _FLOAT * spec.num_layers * spec.hidden_size


def layer_activation_bytes(spec: ModelSpec) -> int:
    """Per token: what one layer keeps for its backward (norms and SwiGLU are computed again)."""
    kept = 2 * spec.hidden_size + 2 * spec.query_size + 2 * spec.kv_size + 2 * spec.intermediate_size
    return _FLOAT * kept


def layer_workspace_bytes(spec: ModelSpec) -> int:
    """Per token: the largest temporaries of one layer's backward."""
    return _FLOAT * (2 * spec.hidden_size + 6 * spec.intermediate_size)


def head_chunk_bytes(spec: ModelSpec, chunk_tokens: int) -> int:
    """Logits of one chunk, which become their own gradient in place."""
    return _FLOAT * chunk_tokens * spec.vocab_size


def kv_bytes(spec: ModelSpec) -> int:
    """Per cached token."""
    return 2 * _FLOAT * spec.num_layers * spec.kv_size
