"""A layer in one call of the compiled kernels is the layer computed part by part: forward bit for bit, and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from model_families import FAMILIES
from quantized_decoders import KINDS, Kind, in_int8, quantized
from tiny_decoders import copied, tiny_adapter, tiny_decoder, tiny_spec

from groat.kernels.native import choose_kernels, native_for
from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.recompute import Recompute
from groat.trees import Node, grow
from groat.types import KVStorage

MANY = 400
"""Tokens for which two threads take a share of the rows each."""


@pytest.fixture(autouse=True)
def needs_kernels() -> None:
    if native_for() is None:
        pytest.skip("no compiled kernels")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trees_of(tokens: int) -> tuple[torch.Tensor, torch.Tensor, Sequence[Node]]:
    """Token ids, positions and nodes of about so many tokens: three sequences of one prompt, and one on its own."""
    generator = torch.Generator().manual_seed(tokens)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, 29, (count,), generator=generator).tolist())

    prompt = some(tokens // 5)
    forest = grow([prompt + some(tokens // 5) for _ in range(3)] + [some(tokens // 5)])
    return torch.tensor(forest.token_ids), torch.tensor(forest.positions), forest.nodes


def part_by_part(
    decoder: Decoder, adapter: Adapter | None, tokens: int, recompute: Recompute | None = None
) -> torch.Tensor:
    token_ids_T, positions_T, nodes = trees_of(tokens)

    def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return tree_attention(queries, keys, values, nodes, decoder.weights.kv_storage)

    return decoder.hidden(token_ids_T, positions_T, attend, adapter, recompute=recompute)


def in_one_call(
    decoder: Decoder, adapter: Adapter | None, tokens: int, recompute: Recompute | None = None
) -> torch.Tensor:
    token_ids_T, positions_T, nodes = trees_of(tokens)
    return decoder.hidden_of_trees(token_ids_T, positions_T, nodes, adapter, recompute=recompute)


def gradients(hidden_TH: torch.Tensor, adapter: Adapter) -> dict[str, torch.Tensor]:
    """Of a sum with random weights."""
    weights_TH = torch.randn(hidden_TH.shape, generator=torch.Generator().manual_seed(5))
    torch.autograd.backward((hidden_TH * weights_TH).sum())
    named = {name: tensor.grad for name, tensor in adapter.named_tensors().items()}
    return {name: grad for name, grad in named.items() if grad is not None}


def assert_same_gradients(decoder: Decoder, adapter: Adapter, tokens: int, tolerance: float = 1e-5) -> None:
    ones, others = adapter, copied(adapter)
    expected = gradients(part_by_part(decoder, ones, tokens), ones)
    found = gradients(in_one_call(decoder, others, tokens), others)
    assert found.keys() == expected.keys() == adapter.named_tensors().keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("tokens", [30, MANY])
def test_every_family(changes: dict[str, Any], tokens: int, two_threads: None):
    decoder = tiny_decoder(tiny_spec(**changes))
    adapter = tiny_adapter(decoder.spec)
    with torch.no_grad():
        assert torch.equal(in_one_call(decoder, adapter, tokens), part_by_part(decoder, adapter, tokens))
    assert_same_gradients(decoder, adapter, tokens)


LARGE_HEADS = {
    "heads of 64": {"hidden_size": 64, "head_dim": 64},
    "heads of 128, one for each query": {"hidden_size": 64, "head_dim": 128, "num_kv_heads": 4},
}
"""Those that attend in int8, by matrix tiles or VNNI, where there are any."""


@pytest.mark.parametrize("changes", (FAMILIES | LARGE_HEADS).values(), ids=(FAMILIES | LARGE_HEADS).keys())
@pytest.mark.parametrize("tokens", [30, MANY])
def test_keys_and_values_in_int8(changes: dict[str, Any], tokens: int, two_threads: None):
    """Attention may have its gradients in bf16: what differs in the last bit of fp32 can be rounded the other way."""
    plain = tiny_decoder(tiny_spec(**changes))
    decoder = Decoder(plain.spec, replace(plain.weights, kv_storage="int8"))
    adapter = tiny_adapter(decoder.spec)
    with torch.no_grad():
        rounded = in_one_call(decoder, adapter, tokens)
        assert torch.equal(rounded, part_by_part(decoder, adapter, tokens))
        assert 0 < (rounded - in_one_call(plain, adapter, tokens)).norm() < 0.02 * rounded.norm()
    in_bfloat16 = decoder.spec.head_dim >= 32 and torch.cpu._is_amx_tile_supported()
    assert_same_gradients(decoder, adapter, tokens, tolerance=1e-3 if in_bfloat16 else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [30, MANY])
def test_every_storage_kind(kind: Kind, tokens: int, two_threads: None):
    decoder = quantized(kind)
    assert_same_gradients(decoder, tiny_adapter(decoder.spec), tokens)


def test_layers_stored_in_different_kinds_have_room_for_the_greediest(two_threads: None):
    """Plain weights, those of the first layer, need none beside the result; int8 and NF4 do."""
    plain, rounded = quantized("bf16"), quantized("int8")
    weights = replace(plain.weights, layers=(plain.weights.layers[0], rounded.weights.layers[1]))
    decoder = Decoder(plain.spec, weights)
    assert_same_gradients(decoder, tiny_adapter(decoder.spec), MANY)


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("rank", [3, 16, 40])
@pytest.mark.parametrize("tokens", [30, MANY])
def test_products_in_int8(kind: Kind, rank: int, tokens: int, two_threads: None):
    """Forward is the same, bit for bit. Gradients may be in bf16, which keeps 8 bits of a number."""
    spec = tiny_spec(hidden_size=64, intermediate_size=192, head_dim=16)
    decoder = in_int8(kind, spec)
    adapter = tiny_adapter(spec, r=rank)
    with torch.no_grad():
        assert torch.equal(in_one_call(decoder, adapter, tokens), part_by_part(decoder, adapter, tokens))
    assert_same_gradients(decoder, adapter, tokens, tolerance=0.01)


def test_gradients_are_added_to_those_that_are_there():
    decoder = tiny_decoder()
    once, twice = tiny_adapter(), tiny_adapter()
    expected = gradients(in_one_call(decoder, once, 30), once)
    gradients(in_one_call(decoder, twice, 30), twice)
    for name, gradient in gradients(in_one_call(decoder, twice, 30), twice).items():
        torch.testing.assert_close(gradient, 2 * expected[name])


def test_two_threads_find_what_one_does(two_threads: None):
    decoder = tiny_decoder()
    ones, others = tiny_adapter(), tiny_adapter()
    expected = gradients(in_one_call(decoder, ones, MANY), ones)
    torch.set_num_threads(1)
    for name, gradient in gradients(in_one_call(decoder, others, MANY), others).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("every", [1, 2])
def test_layers_that_are_computed_again(every: int):
    decoder = tiny_decoder(tiny_spec(num_layers=3))
    kept, again = tiny_adapter(decoder.spec), tiny_adapter(decoder.spec)
    expected = gradients(in_one_call(decoder, kept, 30), kept)
    found = gradients(in_one_call(decoder, again, 30, Recompute(every=every)), again)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_the_base_alone():
    decoder = tiny_decoder()
    assert torch.equal(in_one_call(decoder, None, 30), part_by_part(decoder, None, 30))


@pytest.mark.parametrize("kv_storage", ["f32", "int8"])
def test_torch_alone_computes_the_same(kv_storage: KVStorage):
    plain = tiny_decoder()
    decoder = Decoder(plain.spec, replace(plain.weights, kv_storage=kv_storage))
    compiled = in_one_call(decoder, None, 30)
    choose_kernels("torch")
    try:
        torch.testing.assert_close(in_one_call(decoder, None, 30), compiled, rtol=1e-4, atol=1e-4)
    finally:
        choose_kernels("auto")
