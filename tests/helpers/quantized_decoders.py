"""Tiny decoders whose frozen weights are stored in fewer bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tiny_decoders import tiny_decoder, tiny_spec

from groat.kernels.matrix import Matrix, stored
from groat.kernels.native import has_int8_kernels
from groat.model.decoder import Decoder
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear, Weights
from groat.types import StorageKind

Kind = StorageKind | Literal["dynamic"]
KINDS: list[Kind] = ["f32", "bf16", "int8", "nf4", "dynamic"]
SPEC = tiny_spec(hidden_size=64, intermediate_size=100, head_dim=16)
"""Inputs of 100 are no whole blocks."""


def mapped(weights: Weights, change: Callable[[Matrix], Matrix]) -> Weights:
    def of(linear: Linear) -> Linear:
        return replace(linear, weight_NK=change(linear.weight_NK))

    def layer(one: LayerWeights) -> LayerWeights:
        return replace(one, qkv=of(one.qkv), output=of(one.output), gate_up=of(one.gate_up), down=of(one.down))

    return replace(
        weights,
        embedding_VH=change(weights.embedding_VH),
        layers=tuple(map(layer, weights.layers)),
        head_VH=change(weights.head_VH),
    )


def in_int8(kind: Kind, spec: ModelSpec) -> Decoder:
    """Products in int8, and keys and values too; skips the test where the CPU has no such products."""
    if not has_int8_kernels():
        pytest.skip("no products in int8")
    return Decoder(spec, replace(quantized(kind, spec).weights.computed_in("int8"), kv_storage="int8"))


def quantized(kind: Kind, spec: ModelSpec = SPEC) -> Decoder:
    """`dynamic` is what it comes to: 4, 8 and 16 bits by turns."""
    kinds = itertools.cycle(("nf4", "int8", "bf16") if kind == "dynamic" else (kind,))

    def rounded(weight_NK: Matrix) -> Matrix:
        assert isinstance(weight_NK, torch.Tensor)
        return stored(weight_NK, next(kinds))

    return Decoder(spec, mapped(tiny_decoder(spec).weights, rounded))
