"""Which decoder families we know, as data, and how a Hugging Face config.json becomes a ModelSpec."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from groat.model.spec import Llama3RopeScaling, LongRopeScaling, ModelSpec
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
    default_rope_theta: float = 10000.0
    fused_modules: bool = False
    """Query, key and value are one module of the checkpoint, gate and up another."""
    has_unrotated_layers: bool = False
    """config.json's no_rope_layers counts; without it every fourth layer has no positions."""


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
    "Phi3ForCausalLM": Family(
        name="phi3",
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        default_num_kv_heads=None,
        default_head_dim=None,
        window_switch=None,
        fused_modules=True,
    ),
    "SmolLM3ForCausalLM": Family(
        name="smollm3",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
        qk_norm=False,
        default_num_kv_heads=4,
        default_head_dim=None,
        window_switch="use_sliding_window",
        default_rope_theta=2e6,
        has_unrotated_layers=True,
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
    num_layers = read.count("num_hidden_layers")
    spec = ModelSpec(
        family=family.name,
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=read.count("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=read.count("num_key_value_heads", family.default_num_kv_heads or num_heads),
        head_dim=head_dim,
        vocab_size=read.count("vocab_size"),
        norm_epsilon=read.positive("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(read, family),
        rope_scaling=_rope_scaling(read),
        tied_head=read.switch("tie_word_embeddings"),
        qkv_bias=read.bias(family.qkv_bias),
        output_bias=read.bias(family.output_bias),
        mlp_bias=read.bias(family.mlp_bias),
        qk_norm=family.qk_norm,
        max_context=_max_context(read, family),
        rotary_share=_rotary_share(read, family),
        unrotated_layers=_unrotated_layers(read, num_layers) if family.has_unrotated_layers else frozenset(),
        fused_modules=family.fused_modules,
    )
    _check_sizes(spec, where)
    return spec


def _check_sizes(spec: ModelSpec, where: str) -> None:
    if spec.num_heads % spec.num_kv_heads:
        raise UserError(
            f"{where}: num_attention_heads is {spec.num_heads}, which is no multiple of num_key_value_heads "
            f"({spec.num_kv_heads}). The file is damaged: get it again."
        )
    if spec.head_dim % 2:
        raise UserError(f"{where}: head_dim is {spec.head_dim}; rotary positions need an even one. Get the file again.")
    if spec.rotary_size % 2 or not spec.rotary_size:
        raise UserError(
            f"{where}: partial_rotary_factor {spec.rotary_share} of head_dim {spec.head_dim} is {spec.rotary_size}, "
            "where rotary positions need an even number. Get the file again."
        )
    scaling = spec.rope_scaling
    if isinstance(scaling, LongRopeScaling) and len(scaling.short_factors) != spec.rotary_size // 2:
        raise UserError(
            f"{where}: short_factor has {len(scaling.short_factors)} numbers for {spec.rotary_size // 2} rotary "
            "frequencies. Get the file again."
        )


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
    quantization: Any = read.config.get("quantization_config")
    if quantization is not None and (method := _quantization_method(quantization)) != "bitsandbytes":
        raise UserError(
            f"{where}: this checkpoint is quantized by {method[:40]} (quantization_config). groat reads bitsandbytes' "
            "nf4 and int8, and weights in 16 or 32 bits: use such a checkpoint of this model."
        )
    if (activation := read.config.get("hidden_act", "silu")) != "silu":
        raise UserError(f"{where}: hidden_act is {activation!r}; groat computes silu only. Choose another model.")


def _quantization_method(quantization: Any) -> str:
    """The method, in the words of transformers."""
    if not isinstance(quantization, dict):
        return str(quantization)
    settings = cast(dict[str, Any], quantization)
    if "quant_method" not in settings and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"  # as the first versions wrote it
    return str(settings.get("quant_method"))


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


def _rope_theta(read: _Reader, family: Family) -> float:
    parameters = _rope_parameters(read)
    if "rope_theta" in parameters:
        read = _Reader(parameters, f"{read.where}: rope_parameters")
    return read.positive("rope_theta", family.default_rope_theta)


def _rotary_share(read: _Reader, family: Family) -> float:
    parameters = _rope_parameters(read)
    if "partial_rotary_factor" in parameters:
        read = _Reader(parameters, f"{read.where}: rope_parameters")
    share = read.positive("partial_rotary_factor", 1.0)
    if share > 1 or (share < 1 and family.name != "phi3"):
        raise UserError(
            f"{read.where}: partial_rotary_factor is {share!r}; groat rotates whole heads, and of Phi-3 a part."
        )
    return share


def _unrotated_layers(read: _Reader, num_layers: int) -> frozenset[int]:
    given: Any = read.config.get("no_rope_layers")
    if given is None:
        interval = read.count("no_rope_layer_interval", 4)
        return frozenset(range(interval - 1, num_layers, interval))
    if not isinstance(given, list) or len(cast(list[Any], given)) < num_layers:
        raise UserError(f"{read.where}: no_rope_layers is no list of {num_layers} numbers. Get the file again.")
    return frozenset(index for index in range(num_layers) if not given[index])


def _rope_kind(read: _Reader) -> str:
    parameters = _rope_parameters(read)
    kind: Any = parameters.get("rope_type", parameters.get("type")) or "default"
    if kind not in ("default", "llama3", "longrope"):
        raise UserError(
            f"{read.where}: rope scaling {kind!r} is not supported; groat knows default, llama3 and longrope."
        )
    return kind


def _rope_scaling(read: _Reader) -> Llama3RopeScaling | LongRopeScaling | None:
    match _rope_kind(read):
        case "llama3":
            return _llama3_scaling(read)
        case "longrope":
            return _long_scaling(read)
        case _:
            return None


def _llama3_scaling(read: _Reader) -> Llama3RopeScaling:
    inner = _Reader(_rope_parameters(read), f"{read.where}: rope_parameters")
    scaling = Llama3RopeScaling(
        factor=inner.positive("factor"),
        low_freq_factor=inner.positive("low_freq_factor"),
        high_freq_factor=inner.positive("high_freq_factor"),
        original_max_position_embeddings=inner.count("original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise UserError(f"{inner.where}: high_freq_factor must be above low_freq_factor. Get the file again.")
    return scaling


def _long_scaling(read: _Reader) -> LongRopeScaling:
    inner = _Reader(_rope_parameters(read), f"{read.where}: rope_parameters")
    original = _original_context(read)
    factor = inner.positive("factor", read.count("max_position_embeddings") / original)
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRopeScaling(
        short_factors=inner.positives("short_factor"), attention_factor=inner.positive("attention_factor", usual)
    )


def _original_context(read: _Reader) -> int:
    """What a model with longrope was first trained with; Phi-3 has it beside the scaling rather than in it."""
    key = "original_max_position_embeddings"
    if read.config.get(key) is None:
        read = _Reader(_rope_parameters(read), f"{read.where}: rope_parameters")
    return read.count(key, least=2)


def _max_context(read: _Reader, family: Family) -> int:
    trained = read.count("max_position_embeddings")
    if _rope_kind(read) == "longrope":
        trained = min(trained, _original_context(read))
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

    def positives(self, key: str) -> tuple[float, ...]:
        values = self._value(key, None)
        if not isinstance(values, list):
            raise self._wrong(key, values, "a list of numbers above 0")
        items = {str(place): item for place, item in enumerate(cast(list[Any], values))}
        inner = _Reader(items, f"{self.where}: {key}")
        return tuple(inner.positive(place) for place in items)

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
