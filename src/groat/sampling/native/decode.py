"""The model on the newest token of every live sequence: by one call of the compiled kernels, or layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from groat.kernels.layers import CompiledLayers
from groat.kernels.matrix import rows_of
from groat.model.decoder import Decoder
from groat.model.layers import rotation
from groat.model.lora import Adapter
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
    compiled = decoder.compiled(adapter)
    return decode_layer_by_layer(decoder, adapter) if compiled is None else _decode_compiled(decoder, compiled)


def decode_layer_by_layer(decoder: Decoder, adapter: Adapter | None) -> Decode:
    """Through the decoder's own forward, on any device."""

    def decode(newest: Newest) -> torch.Tensor:
        attention = decode_attention(newest.prefixes, newest.arena, newest.live)
        return decoder.hidden(newest.token_ids_S, newest.positions_S, attention, adapter)

    return decode


def _decode_compiled(decoder: Decoder, compiled: CompiledLayers) -> Decode:
    spec, weights = decoder.spec, decoder.weights

    def decode(newest: Newest) -> torch.Tensor:
        hidden_SH = rows_of(weights.embedding_VH, newest.token_ids_S)
        turns = rotation(spec, newest.positions_S, weights.dtype)
        return compiled.decode(hidden_SH, turns, decode_past(newest.prefixes, newest.arena, newest.live))

    return decode
