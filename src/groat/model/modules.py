"""A decoder layer's linear modules under their Hugging Face names, and which of them make up one of our matrices."""

from __future__ import annotations

from dataclasses import dataclass

from groat.model.spec import ModelSpec

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""PEFT's names for what an adapter trains."""
FUSED_TARGET_MODULES = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
"""The same of a model whose checkpoints have fused modules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One linear module of a checkpoint's layer; an adapter has one A and one B for it."""

    name: str
    """Below `model.layers.N`: `self_attn.q_proj`."""
    num_out: int
    num_in: int
    has_bias: bool


def linear_modules(spec: ModelSpec) -> dict[str, tuple[Module, ...]]:
    """By the fields of LayerWeights and LayerAdapter: the modules whose rows lie one below the other in it."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.query_size, spec.kv_size

    def attention(name: str, num_out: int) -> Module:
        return Module(name=f"self_attn.{name}", num_out=num_out, num_in=hidden, has_bias=spec.qkv_bias)

    def mlp(name: str, num_out: int, num_in: int) -> Module:
        return Module(name=f"mlp.{name}", num_out=num_out, num_in=num_in, has_bias=spec.mlp_bias)

    output = Module(name="self_attn.o_proj", num_out=hidden, num_in=queries, has_bias=spec.output_bias)
    down = mlp("down_proj", hidden, inner)
    if spec.fused_modules:
        qkv = (attention("qkv_proj", queries + 2 * keys),)
        gate_up = (mlp("gate_up_proj", 2 * inner, hidden),)
    else:
        qkv = (attention("q_proj", queries), attention("k_proj", keys), attention("v_proj", keys))
        gate_up = (mlp("gate_proj", inner, hidden), mlp("up_proj", inner, hidden))
    return {"qkv": qkv, "output": (output,), "gate_up": gate_up, "down": (down,)}


def target_modules(spec: ModelSpec) -> tuple[str, ...]:
    """PEFT's names for what an adapter of this model trains."""
    return FUSED_TARGET_MODULES if spec.fused_modules else TARGET_MODULES
