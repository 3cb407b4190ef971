"""A tiny model with random weights, in a folder as Hugging Face's save_pretrained leaves it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from groat.model.checkpoint import expected_shapes
from groat.model.families import spec_from_hf_config
from groat.model.random_checkpoint import NUM_BYTES, SPECIAL_TOKENS, write_byte_tokenizer
from groat.model.spec import ModelSpec

Family = Literal["llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3"]

_ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
_SIZES: dict[str, Any] = {
    "vocab_size": NUM_BYTES + len(SPECIAL_TOKENS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": NUM_BYTES,
    "pad_token_id": NUM_BYTES,
    "eos_token_id": NUM_BYTES + SPECIAL_TOKENS.index("<|im_end|>"),
    "torch_dtype": "float32",
}


def tiny_model(folder: Path | str, family: Family = "llama", *, seed: int = 0) -> Path:
    """Write the model into `folder` (made if need be) and return it; `load_model` and transformers read it.

    About 36,000 weights, a context of 512 tokens, one token per byte, ChatML. The seed decides the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": [_ARCHITECTURES[family]], "model_type": family, **_SIZES}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(_weights(spec_from_hf_config(config), seed), folder / "model.safetensors", {"format": "pt"})
    write_byte_tokenizer(folder)
    return folder


def _weights(spec: ModelSpec, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: _weight(name, shape, generator) for name, shape in expected_shapes(spec)}


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Sizes that keep activations near 1; logits then spread by about 1, so that a policy has something to prefer."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    is_matrix = len(shape) == 2 and not name.endswith("embed_tokens.weight")
    spread = 1 / math.sqrt(shape[1]) if is_matrix else 0.1 if len(shape) == 1 else 1.0
    return torch.randn(shape, generator=generator) * spread
