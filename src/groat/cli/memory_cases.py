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
    grows: bool = False
    """Prompts get longer from step to step, up to `prompt_tokens`."""
    steps: int = 2
    """Two, so that AdamW's moments are there while the second samples and learns; with a budget they are there from the
    start, and one tells as much."""

    @property
    def words(self) -> str:
        return (
            f"{self.num_prompts} x {self.num_generations} completions of {self.completion_tokens} on prompts of "
            f"{self.prompt_tokens}, {self.storage or 'any storage'}, {self.budget or 'no'} budget, {self.steps} steps"
        )

    def prompts(self) -> Iterator[str]:
        """Different prompts of as many bytes as the case has prompt tokens."""
        count = self.num_prompts * self.steps
        for number in range(count):
            letters = random.Random(number)
            length = self.prompt_tokens * (number + 1) // count if self.grows else self.prompt_tokens
            yield "".join(letters.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(max(8, length)))


def _by_name(*cases: MemoryCase) -> Mapping[str, MemoryCase]:
    return {case.name: case for case in cases}


CASES = _by_name(
    MemoryCase(name="qwen2.5-1.5b", shape="qwen2.5-1.5b", budget="3GiB", steps=1),
    MemoryCase(name="llama-3.2-3b", shape="llama-3.2-3b", budget="4.5GiB", steps=1),
    MemoryCase(name="qwen2.5-7b", shape="qwen2.5-7b", budget="8GiB", storage="nf4", steps=1),
    MemoryCase(name="mistral-7b", shape="mistral-7b", budget="8GiB", storage="nf4", steps=1),
    MemoryCase(name="llama-3.1-8b", shape="llama-3.1-8b", budget="8.5GiB", storage="nf4", steps=1),
    MemoryCase(name="phi-4", shape="phi-4", budget="13GiB", storage="nf4", steps=1),
    MemoryCase(name="135m-exact", shape="smollm2-135m", budget=None, num_prompts=2, completion_tokens=128),
    MemoryCase(name="135m-700mib", shape="smollm2-135m", budget="700MiB", completion_tokens=128),
    MemoryCase(
        name="135m-600mib",
        shape="smollm2-135m",
        budget="600MiB",
        storage="nf4",
        num_prompts=2,
        num_generations=4,
        prompt_tokens=256,
        completion_tokens=96,
    ),
    MemoryCase(name="135m-group-of-32", shape="smollm2-135m", budget="1GiB", num_generations=32, completion_tokens=48),
    MemoryCase(name="135m-long", shape="smollm2-135m", budget="1GiB", num_generations=4, completion_tokens=768),
    MemoryCase(
        name="135m-long-prompt", shape="smollm2-135m", budget="1.2GiB", prompt_tokens=2048, completion_tokens=32
    ),
    MemoryCase(name="360m-bf16", shape="smollm2-360m", budget=None, storage="bf16", completion_tokens=64),
    MemoryCase(name="360m-1gib", shape="smollm2-360m", budget="1GiB", storage="int8", completion_tokens=64),
    MemoryCase(name="360m-nf4", shape="smollm2-360m", budget="900MiB", storage="nf4", completion_tokens=32),
    MemoryCase(name="0.5b-exact", shape="qwen2.5-0.5b", budget=None, completion_tokens=48),
    MemoryCase(name="0.5b-int8", shape="qwen2.5-0.5b", budget="1.25GiB", storage="int8", completion_tokens=32),
    MemoryCase(name="0.5b-2gib", shape="qwen2.5-0.5b", budget="2GiB", num_prompts=2, completion_tokens=24),
    MemoryCase(
        name="0.5b-long-prompt",
        shape="qwen2.5-0.5b",
        budget="1.5GiB",
        storage="int8",
        prompt_tokens=1024,
        completion_tokens=16,
    ),
    MemoryCase(name="1b-int8", shape="llama-3.2-1b", budget=None, storage="int8", completion_tokens=24),
    MemoryCase(name="1b-2gib", shape="llama-3.2-1b", budget="2.2GiB", storage="int8", completion_tokens=24),
    MemoryCase(name="1b-nf4", shape="llama-3.2-1b", budget="1.8GiB", storage="nf4", completion_tokens=16),
    MemoryCase(name="1.5b-short", shape="qwen2.5-1.5b", budget="2.2GiB", storage="nf4", completion_tokens=16),
    MemoryCase(
        name="135m-growing",
        shape="smollm2-135m",
        budget="800MiB",
        num_generations=4,
        completion_tokens=64,
        grows=True,
        steps=100,
    ),
)
