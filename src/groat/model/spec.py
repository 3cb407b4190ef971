"""A dense decoder family described as data: what differs between Llama, Qwen, Mistral, Phi-3 and SmolLM3."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3RopeScaling:
    """Llama 3.1's stretching of low RoPE frequencies (arXiv:2407.21783, section 3.4 and its released code)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (arXiv:2402.13753) up to the context that the model was first trained with.

    Longer sequences take other factors, for their first tokens too; groat does not compute those.
    """

    short_factors: tuple[float, ...]
    """What each rotary frequency is divided by."""
    attention_factor: float
    """What rotated queries and keys are multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder. Sizes are counts, not bytes."""

    family: str
    """llama, mistral, qwen2, qwen3, phi3 or smollm3."""
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: Llama3RopeScaling | LongRopeScaling | None
    tied_head: bool
    """The head is the embedding's own tensor."""
    qkv_bias: bool
    output_bias: bool
    """The attention's output projection has a bias (Llama's `attention_bias`)."""
    mlp_bias: bool
    qk_norm: bool
    """Queries and keys pass through an RMSNorm per head before RoPE (Qwen3)."""
    max_context: int
    """Tokens a sequence may have: the trained positions, or the sliding window if that is shorter."""
    rotary_share: float = 1.0
    """The part of each head that is rotated, from its beginning."""
    unrotated_layers: frozenset[int] = frozenset()
    """Layers without positions (SmolLM3)."""
    fused_modules: bool = False
    """The checkpoint has query, key and value in one module, gate and up in another (Phi-3)."""

    @property
    def rotary_size(self) -> int:
        return int(self.head_dim * self.rotary_share)

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim
