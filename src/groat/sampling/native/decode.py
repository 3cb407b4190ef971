"""The model on the newest token of every live sequence: by one call of the compiled kernels, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from groat.kernels.layers import AdaptedLinear, CompiledLayers, DecoderLayer, DecoderShape, can_compile
from groat.kernels.matrix import rows_of
from groat.model.decoder import Decoder
from groat.model.layers import rotation
from groat.model.lora import Adapter, LayerAdapter, LoraPair
from groat.model.weights import LayerWeights, Linear
from groat.sampling.native.attention import LiveRow, decode_attention, decode_past
from groat.sampling.native.cache import SuffixArena
from groat.sampling.native.prefill import Prefixes


class Newest(NamedTuple):
    """The newest token of every live sequence, and where the tokens before it are."""

    token_ids_S: torch.Tensor
    positions_S: torch.Tensor
    prefixes: Prefixes
    arena: SuffixArena
    live: Sequence[LiveRow]


Decode = Callable[[Newest], torch.Tensor]
"""The residual stream [S, H] after the last layer; remembers the tokens' keys and values."""


def decode_with(decoder: Decoder, adapter: Adapter | None) -> Decode:
    """As fast as this machine can; both ways compute the same numbers where both are there."""
    adapters = [None] * decoder.spec.num_layers if adapter is None else adapter.layers
    layers = [
        _compiled_layer(weights, trained, is_rotated=index not in decoder.spec.unrotated_layers)
        for index, (weights, trained) in enumerate(zip(decoder.weights.layers, adapters, strict=True))
    ]
    return _compiled(decoder, adapter, layers) if can_compile(layers) else decode_layer_by_layer(decoder, adapter)


def decode_layer_by_layer(decoder: Decoder, adapter: Adapter | None) -> Decode:
    """Through the decoder's own forward, on any device."""

    def decode(newest: Newest) -> torch.Tensor:
        attention = decode_attention(newest.prefixes, newest.arena, newest.live)
        return decoder.hidden(newest.token_ids_S, newest.positions_S, attention, adapter)

    return decode


def _compiled(decoder: Decoder, adapter: Adapter | None, layers: Sequence[DecoderLayer]) -> Decode:
    spec, weights = decoder.spec, decoder.weights
    shape = DecoderShape(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        norm_epsilon=spec.norm_epsilon,
        adapter_scale=0.0 if adapter is None else adapter.scale,
    )
    compiled = CompiledLayers(layers, shape)

    def decode(newest: Newest) -> torch.Tensor:
        hidden_SH = rows_of(weights.embedding_VH, newest.token_ids_S)
        turns = rotation(spec, newest.positions_S, weights.dtype)
        return compiled.decode(hidden_SH, turns, decode_past(newest.prefixes, newest.arena, newest.live))

    return decode


def _compiled_layer(weights: LayerWeights, adapter: LayerAdapter | None, *, is_rotated: bool) -> DecoderLayer:
    return DecoderLayer(
        qkv=_compiled_linear(weights.qkv, adapter and adapter.qkv),
        output=_compiled_linear(weights.output, adapter and adapter.output),
        gate_up=_compiled_linear(weights.gate_up, adapter and adapter.gate_up),
        down=_compiled_linear(weights.down, adapter and adapter.down),
        input_norm_H=weights.input_norm_H,
        mlp_norm_H=weights.mlp_norm_H,
        query_norm_D=weights.query_norm_D,
        key_norm_D=weights.key_norm_D,
        is_rotated=is_rotated,
    )


def _compiled_linear(base: Linear, pair: LoraPair | None) -> AdaptedLinear:
    if pair is None:
        return AdaptedLinear(base.weight_NK, base.bias_N)
    return AdaptedLinear(base.weight_NK, base.bias_N, pair.a_RK, pair.bs_NR)
