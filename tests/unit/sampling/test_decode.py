"""Decoding in one call of the compiled kernels is decoding layer by layer, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from model_families import FAMILIES
from quantized_decoders import KINDS, Kind, in_int8, quantized
from sampler_examples import params_of, sampled, sampler_of
from tiny_decoders import tiny_adapter, tiny_decoder, tiny_spec

from groat.kernels.native import native_for
from groat.model.decoder import Decoder
from groat.sampling.native import sampler as sampler_module
from groat.sampling.native.decode import decode_layer_by_layer
from groat.types import Group


def both_ways(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, *, adapted: bool = True
) -> tuple[list[Group], list[Group]]:
    if native_for() is None:
        pytest.skip("no compiled kernels")
    params, adapter = params_of(max_completion_length=20), tiny_adapter(decoder.spec) if adapted else None
    compiled = sampled(sampler_of(decoder, max_concurrent=7), params, adapter=adapter)
    monkeypatch.setattr(sampler_module, "decode_with", decode_layer_by_layer)
    return compiled, sampled(sampler_of(decoder, max_concurrent=7), params, adapter=adapter)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    compiled, one_by_one = both_ways(tiny_decoder(tiny_spec(**changes)), monkeypatch)
    assert compiled == one_by_one


@pytest.mark.parametrize("kind", KINDS)
def test_every_storage_kind(kind: Kind, monkeypatch: pytest.MonkeyPatch):
    compiled, one_by_one = both_ways(quantized(kind), monkeypatch)
    assert compiled == one_by_one


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_products_in_int8(kind: Kind, monkeypatch: pytest.MonkeyPatch):
    spec = tiny_spec(hidden_size=64, intermediate_size=128, head_dim=16)
    decoder = in_int8(kind, spec)
    compiled, one_by_one = both_ways(decoder, monkeypatch)
    assert compiled == one_by_one


def test_keys_and_values_in_int8(monkeypatch: pytest.MonkeyPatch):
    plain = tiny_decoder()
    compiled, one_by_one = both_ways(Decoder(plain.spec, replace(plain.weights, kv_storage="int8")), monkeypatch)
    assert compiled == one_by_one


def test_the_base_without_an_adapter(monkeypatch: pytest.MonkeyPatch):
    compiled, one_by_one = both_ways(tiny_decoder(), monkeypatch, adapted=False)
    assert compiled == one_by_one
