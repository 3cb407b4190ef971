"""Which decoder families we know, as data, and how a Hugging Face config.json becomes a ModelSpec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from groat.model.spec import Llama3RopeScaling, ModelSpec
from groat.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What sets a family apart. Where a bias is a string, that key of config.json switches it (absent: no bias)."""

    name: str
    qkv_bias: bool | str
    output_bias: bool | str
    mlp_bias: bool | str
    qk_norm: bool
    default_num_kv_heads: int | None
    """For a config.json without num_key_value_heads; None: as many as heads."""
    default_head_dim: int | None
    """For a config.json without head_dim; None: hidden_size / heads."""
    window_switch: str | None
    """The key that must be true for sliding_window to count; None: sliding_window counts whenever it is given."""


FAMILIES = {
    "LlamaForCausalLM": Family(
        name="llama",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        qk_norm=False,
        default_num_kv_heads=None,
        default_head_dim=None,
        window_switch=None,
    ),
    "MistralForCausalLM": Family(
        name="mistral",
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        default_num_kv_heads=8,
        default_head_dim=None,
        window_switch=None,
    ),
    "Qwen2ForCausalLM": Family(
        name="qwen2",
        qkv_bias=True,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        default_num_kv_heads=32,
        default_head_dim=None,
        window_switch="use_sliding_window",
    ),
    "Qwen3ForCausalLM": Family(
        name="qwen3",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias=False,
        qk_norm=True,
        default_num_kv_heads=32,
        default_head_dim=128,
        window_switch="use_sliding_window",
    ),
}
"""By the name in config.json's `architectures`."""

_LARGEST_COUNT = 2**31


def spec_from_hf_config(config: dict[str, Any], where: str = "config.json") -> ModelSpec:
    """The model's shape; a UserError that names the key in `where` for anything we would compute wrongly."""
    read = _Reader(config, where)
    family = _family(config, where)
    _refuse_what_we_cannot_compute(read)
    num_heads = read.count("num_attention_heads")
    hidden_size = read.count("hidden_size")
    head_dim = read.count("head_dim", family.default_head_dim or hidden_size // num_heads)
    spec = ModelSpec(
        family=family.name,
        num_layers=read.count("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=read.count("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=read.count("num_key_value_heads", family.default_num_kv_heads or num_heads),
        head_dim=head_dim,
        vocab_size=read.count("vocab_size"),
        norm_epsilon=read.positive("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(read),
        rope_scaling=_rope_scaling(read),
        tied_head=read.switch("tie_word_embeddings"),
        qkv_bias=read.bias(family.qkv_bias),
        output_bias=read.bias(family.output_bias),
        mlp_bias=read.bias(family.mlp_bias),
        qk_norm=family.qk_norm,
        max_context=_max_context(read, family),
    )
    if spec.num_heads % spec.num_kv_heads:
        raise UserError(
            f"{where}: num_attention_heads is {spec.num_heads}, which is no multiple of num_key_value_heads "
            f"({spec.num_kv_heads}). The file is damaged: get it again."
        )
    if spec.head_dim % 2:
        raise UserError(f"{where}: head_dim is {spec.head_dim}; rotary positions need an even one. Get the file again.")
    return spec


def _family(config: dict[str, Any], where: str) -> Family:
    architectures: Any = config.get("architectures") or [
        f"{config.get('model_type', 'unknown').capitalize()}ForCausalLM"
    ]
    known = ", ".join(FAMILIES)
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in cast(list[Any], architectures)):
        raise UserError(f"{where}: architectures is {architectures!r}, not a list of names. groat knows {known}.")
    names = cast(list[str], architectures)
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    raise UserError(f"{where}: the architecture {', '.join(names)} is not supported. groat knows {known}.")


def _refuse_what_we_cannot_compute(read: _Reader) -> None:
    where = read.where
    if read.config.get("quantization_config") is not None:
        raise UserError(
            f"{where}: this checkpoint is already quantized (quantization_config). groat starts from 16 or 32 bit "
            f"weights: use the unquantized model."
        )
    if (activation := read.config.get("hidden_act", "silu")) != "silu":
        raise UserError(f"{where}: hidden_act is {activation!r}; groat computes silu only. Choose another model.")
    if (share := read.config.get("partial_rotary_factor")) not in (None, 1, 1.0):
        raise UserError(f"{where}: partial_rotary_factor is {share!r}; groat rotates whole heads only.")


def _rope_parameters(read: _Reader) -> dict[str, Any]:
    """transformers 5 keeps them under rope_parameters, transformers 4 under rope_scaling and rope_theta."""
    for key in ("rope_parameters", "rope_scaling"):
        value: Any = read.config.get(key)
        if value is None:
            continue
        if not isinstance(value, dict) or any(
            isinstance(inner, dict) for inner in cast(dict[str, Any], value).values()
        ):
            raise UserError(f"{read.where}: {key} is not a flat object; groat has one rotary setting for all layers.")
        return cast(dict[str, Any], value)
    return {}


def _rope_theta(read: _Reader) -> float:
    parameters = _rope_parameters(read)
    if "rope_theta" in parameters:
        return _Reader(parameters, f"{read.where}: rope_parameters").positive("rope_theta", 10000.0)
    return read.positive("rope_theta", 10000.0)


def _rope_scaling(read: _Reader) -> Llama3RopeScaling | None:
    parameters = _rope_parameters(read)
    kind: Any = parameters.get("rope_type", parameters.get("type", "default"))
    if kind in ("default", None):
        return None
    if kind != "llama3":
        raise UserError(f"{read.where}: rope scaling {kind!r} is not supported; groat knows default and llama3.")
    inner = _Reader(parameters, f"{read.where}: rope_parameters")
    scaling = Llama3RopeScaling(
        factor=inner.positive("factor"),
        low_freq_factor=inner.positive("low_freq_factor"),
        high_freq_factor=inner.positive("high_freq_factor"),
        original_max_position_embeddings=inner.count("original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise UserError(f"{inner.where}: high_freq_factor must be above low_freq_factor. Get the file again.")
    return scaling


def _max_context(read: _Reader, family: Family) -> int:
    trained = read.count("max_position_embeddings")
    if read.config.get("sliding_window") is None or not _has_sliding_layers(read, family):
        return trained
    return min(trained, read.count("sliding_window"))


def _has_sliding_layers(read: _Reader, family: Family) -> bool:
    if family.window_switch is not None and not read.switch(family.window_switch):
        return False
    layer_types: Any = read.config.get("layer_types")
    if isinstance(layer_types, list):
        return "sliding_attention" in layer_types
    if family.window_switch is None:
        return True
    return read.count("max_window_layers", 28, least=0) < read.count("num_hidden_layers")


class _Reader:
    """Typed look-ups in one JSON object, whose errors name the object and the key."""

    def __init__(self, config: dict[str, Any], where: str) -> None:
        self.config = config
        self.where = where

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _LARGEST_COUNT:
            raise self._wrong(key, value, f"a whole number of at least {least}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._wrong(key, value, "a number above 0")
        return float(value)

    def switch(self, key: str) -> bool:
        value = self._value(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def bias(self, kind: bool | str) -> bool:
        return self.switch(kind) if isinstance(kind, str) else kind

    def _value(self, key: str, default: Any) -> Any:
        value = self.config.get(key)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{self.where} has no {key}. The file is damaged or of another kind of model.")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> UserError:
        return UserError(f"{self.where}: {key} is {str(value)[:80]!r} where {wanted} is expected. Get the file again.")
