"""GGUF metadata becomes a Hugging Face config.json."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from groat.model.gguf_reader import GgufFile
from groat.types import UserError

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# How Meta scales all of Llama 3.1, 3.2 and 3.3; only the factor (8 or 32) differs, and a GGUF keeps none of them.
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_TRAINED = 1.0, 4.0, 8192


def hf_config_from_gguf(gguf: GgufFile) -> dict[str, Any]:
    """The config; a UserError for an architecture or a setting that groat would compute wrongly."""
    read = _Metadata(gguf)
    _refuse_what_we_cannot_compute(read)
    num_heads = read.count("attention.head_count")
    hidden_size = read.count("embedding_length")
    head_dim = read.count("attention.key_length", read.count("rope.dimension_count", hidden_size // num_heads))
    for other in ("attention.value_length", "rope.dimension_count"):
        if read.count(other, head_dim) != head_dim:
            raise read.unsupported(other)
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[read.architecture]],
        "model_type": read.architecture,
        "hidden_act": "silu",
        "num_hidden_layers": read.count("block_count"),
        "hidden_size": hidden_size,
        "intermediate_size": read.count("feed_forward_length"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": read.count("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "vocab_size": _shape(gguf, "token_embd.weight")[0],
        "max_position_embeddings": read.count("context_length"),
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "attention_bias": read.architecture != "qwen2" and "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
        "rope_theta": read.number("rope.freq_base", 10000.0),
    }
    _add_rope_scaling(gguf, config)
    _check_permuted_shapes(gguf, config)
    if read.get("attention.sliding_window"):
        config |= {"sliding_window": read.count("attention.sliding_window"), "use_sliding_window": True}
        config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    return config


def _refuse_what_we_cannot_compute(read: _Metadata) -> None:
    if read.architecture not in _ARCHITECTURES:
        raise UserError(
            f"{read.gguf.path}: the architecture {read.architecture!r} is not supported. groat reads GGUF files of "
            f"{', '.join(_ARCHITECTURES)} (Mistral's say llama)."
        )
    for key, harmless in (("expert_count", (None, 0)), ("rope.scaling.type", (None, "none"))):
        if read.get(key) not in harmless:
            raise read.unsupported(key)


def _add_rope_scaling(gguf: GgufFile, config: dict[str, Any]) -> None:
    """Llama 3's scaling is stored as one factor per frequency; find the factor that gives them, or refuse."""
    if "rope_freqs.weight" not in gguf.tensors:
        return
    num_frequencies = config["head_dim"] // 2
    if _shape(gguf, "rope_freqs.weight") != (num_frequencies,) or gguf.tensors["rope_freqs.weight"].kind.name != "F32":
        raise UserError(f"{gguf.path}: rope_freqs.weight is not {num_frequencies} F32 numbers. Get the file again.")
    stored = gguf.rows("rope_freqs.weight").view("<f4")[0].astype(np.float64)
    factor = float(stored.max())
    expected = llama3_rope_factors(config["rope_theta"], config["head_dim"], factor)
    if not np.allclose(stored, expected, rtol=1e-3, atol=0):
        raise UserError(
            f"{gguf.path}: rope_freqs.weight is not the scaling of Llama 3, which is the only one groat knows for GGUF "
            "files. Use the Hugging Face folder of this model."
        )
    if factor != 1:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": round(factor, 4),
            "low_freq_factor": _LLAMA3_LOW,
            "high_freq_factor": _LLAMA3_HIGH,
            "original_max_position_embeddings": _LLAMA3_TRAINED,
        }


def llama3_rope_factors(rope_theta: float, head_dim: int, factor: float) -> npt.NDArray[np.float64]:
    """What each rotary frequency is divided by (arXiv:2407.21783 and its released code)."""
    frequencies = rope_theta ** -(np.arange(0, head_dim, 2) / head_dim)
    wavelengths = 2 * math.pi / frequencies
    smooth = (_LLAMA3_TRAINED / wavelengths - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
    smooth = smooth.clip(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _check_permuted_shapes(gguf: GgufFile, config: dict[str, Any]) -> None:
    """The rows of query and key are re-ordered by head, so their number must be right before that."""
    for index in range(config["num_hidden_layers"]):
        for name, key in (("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads")):
            num_rows = config[key] * config["head_dim"]
            stored = _shape(gguf, f"blk.{index}.{name}.weight")
            bias = gguf.tensors.get(f"blk.{index}.{name}.bias")
            if stored[0] != num_rows or (bias is not None and bias.shape != (num_rows,)):
                raise UserError(
                    f"{gguf.path}: blk.{index}.{name} has shape {list(stored)}, but its metadata calls for "
                    f"{num_rows} rows. The file is damaged: get it again."
                )


def _shape(gguf: GgufFile, name: str) -> tuple[int, ...]:
    if name not in gguf.tensors:
        raise UserError(f"{gguf.path} has no tensor {name}. The file is damaged or of another kind of model.")
    return gguf.tensors[name].shape


class _Metadata:
    """Typed look-ups of `<architecture>.<key>`."""

    def __init__(self, gguf: GgufFile) -> None:
        self.gguf = gguf
        self.architecture = str(gguf.metadata.get("general.architecture"))

    def get(self, key: str) -> Any:
        return self.gguf.metadata.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.unsupported(key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Shortest decimal of the stored 32-bit number: 1e-05 rather than 9.999999747378752e-06."""
        value = self.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.unsupported(key)
        return float(str(np.float32(value)))

    def unsupported(self, key: str) -> UserError:
        return UserError(
            f"{self.gguf.path}: {self.architecture}.{key} is {str(self.get(key))[:80]}, which groat cannot use. Use a "
            "plain dense model, or its Hugging Face folder."
        )
