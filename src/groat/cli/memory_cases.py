"""The cases of `groat bench memory`: shapes of well-known models, and the work that is done on them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from groat.types import StorageKind


def _shape(
    architecture: str, hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        **more,
    }


_LLAMA, _QWEN, _TIED = "LlamaForCausalLM", "Qwen2ForCausalLM", {"tie_word_embeddings": True}
SHAPES: Mapping[str, dict[str, Any]] = {
    "smollm2-135m": _shape(_LLAMA, 576, 1536, 30, 9, 3, 49152, **_TIED),
    "smollm2-360m": _shape(_LLAMA, 960, 2560, 32, 15, 5, 49152, **_TIED),
    "qwen2.5-0.5b": _shape(_QWEN, 896, 4864, 24, 14, 2, 151936, **_TIED),
    "llama-3.2-1b": _shape(_LLAMA, 2048, 8192, 16, 32, 8, 128256, **_TIED),
    "qwen2.5-1.5b": _shape(_QWEN, 1536, 8960, 28, 12, 2, 151936, **_TIED),
    "llama-3.2-3b": _shape(_LLAMA, 3072, 8192, 28, 24, 8, 128256, **_TIED),
    "qwen2.5-7b": _shape(_QWEN, 3584, 18944, 28, 28, 4, 152064),
    "mistral-7b": _shape("MistralForCausalLM", 4096, 14336, 32, 32, 8, 32768),
    "llama-3.1-8b": _shape(_LLAMA, 4096, 14336, 32, 32, 8, 128256),
    "phi-4": _shape("Phi3ForCausalLM", 5120, 17920, 40, 40, 10, 100352),
}
"""Hugging Face configs by name; sizes as their makers publish them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCase:
    """GRPO steps with LoRA r=16 on all linear layers of a shape."""

    name: str
    shape: str
    budget: str | None
    storage: StorageKind | None = None
    num_prompts: int = 1
    num_generations: int = 8
    prompt_tokens: int = 128
    completion_tokens: int = 512
    steps: int = 2
    """Two, so that AdamW's moments are there while the second samples and learns."""

    @property
    def words(self) -> str:
        return (
            f"{self.num_prompts} x {self.num_generations} completions of {self.completion_tokens} on prompts of "
            f"{self.prompt_tokens}, {self.storage or 'any storage'}, {self.budget or 'no'} budget, {self.steps} steps"
        )

    def prompts(self) -> Iterator[str]:
        """Different prompts of as many bytes as the case has prompt tokens."""
        for number in range(self.num_prompts * self.steps):
            letters = random.Random(number)
            yield "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(self.prompt_tokens))


def _by_name(*cases: MemoryCase) -> Mapping[str, MemoryCase]:
    return {case.name: case for case in cases}


CASES = _by_name(
    MemoryCase(name="qwen2.5-1.5b", shape="qwen2.5-1.5b", budget="3GiB"),
    MemoryCase(name="llama-3.2-3b", shape="llama-3.2-3b", budget="4.5GiB"),
    MemoryCase(name="qwen2.5-7b", shape="qwen2.5-7b", budget="8GiB"),
    MemoryCase(name="mistral-7b", shape="mistral-7b", budget="8GiB"),
    MemoryCase(name="llama-3.1-8b", shape="llama-3.1-8b", budget="8.5GiB"),
    MemoryCase(name="phi-4", shape="phi-4", budget="13GiB"),
)
