"""What sets families of decoders apart, as changes to a tiny one."""

from __future__ import annotations

from typing import Any

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"qk_norm": True},
    "qwen2": {"qkv_bias": True},
    "biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "smollm3": {"unrotated_layers": frozenset({1})},
    "phi4-mini": {"fused_modules": True, "rotary_share": 0.5, "head_dim": 8},
    "one head": {"num_heads": 1, "num_kv_heads": 1},
}
