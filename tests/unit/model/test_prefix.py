"""What micro-batches begin with, computed once: the same hidden states and gradients as if each had computed it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_families import FAMILIES
from quantized_decoders import KINDS, Kind, in_int8
from tiny_decoders import copied, tiny_adapter, tiny_decoder, tiny_spec

from groat.kernels.native import choose_kernels
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.recompute import Recompute
from groat.trees import Forest, Node, grow
from groat.types import KVStorage

SHARED = 40


def tokens(seed: int, count: int) -> tuple[int, ...]:
    return tuple(torch.randint(0, 29, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


PREFIX = tokens(0, SHARED)
PARTS = [[tokens(1, 20), (*tokens(2, 9), *tokens(3, 5)), (*tokens(2, 9), *tokens(4, 7))], [tokens(5, 30)]]
"""What follows the prefix in each of two micro-batches: three sequences, of which two share more, and one."""


def hidden_of(decoder: Decoder, adapter: Adapter | None, forest: Forest, recompute: Recompute | None) -> torch.Tensor:
    return decoder.hidden_of_trees(
        torch.tensor(forest.token_ids), torch.tensor(forest.positions), forest.nodes, adapter, recompute=recompute
    )


def weighted(hidden_TH: torch.Tensor) -> torch.Tensor:
    """A sum with random weights, the same for rows that are as many."""
    weights_TH = torch.randn(hidden_TH.shape, generator=torch.Generator().manual_seed(len(hidden_TH)))
    return (hidden_TH * weights_TH.to(hidden_TH.dtype)).sum()


def each_for_itself(
    decoder: Decoder, adapter: Adapter | None, recompute: Recompute | None = None
) -> list[torch.Tensor]:
    """The hidden states of what follows the prefix, of each micro-batch."""
    return [
        hidden_of(decoder, adapter, grow([PREFIX + path for path in paths], max_run=SHARED), recompute)[SHARED:]
        for paths in PARTS
    ]


def learn_with_prefix(
    decoder: Decoder, adapter: Adapter | None, recompute: Recompute | None = None
) -> list[torch.Tensor]:
    """The same, and the gradients of `weighted` too where there is an adapter."""
    learns = adapter is not None
    prefix = decoder.prefix(SHARED, learns=learns)
    root = (Node(0, SHARED, SHARED, is_root=True),)
    ids, places = torch.tensor(PREFIX), torch.arange(SHARED)
    prefix_hidden = decoder.hidden_of_trees(ids, places, root, adapter, recompute=recompute, made=prefix)
    found: list[torch.Tensor] = []
    for paths in PARTS:
        forest = grow(paths)
        hidden_TH = decoder.hidden_of_trees(
            torch.tensor(forest.token_ids),
            torch.tensor(forest.positions) + SHARED,
            forest.nodes,
            adapter,
            recompute=recompute,
            before=prefix,
        )
        found.append(hidden_TH)
        if learns:
            torch.autograd.backward(weighted(hidden_TH))
    if learns:
        torch.autograd.backward(prefix_hidden, torch.zeros_like(prefix_hidden))
    return found


def check(decoder: Decoder, adapter: Adapter, tolerance: float, recompute: Recompute | None = None) -> None:
    ones, others = copied(adapter), copied(adapter)
    expected = each_for_itself(decoder, ones, recompute)
    torch.autograd.backward(sum((weighted(hidden_TH) for hidden_TH in expected), torch.zeros(())))
    found = learn_with_prefix(decoder, others, recompute)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    for name, tensor in ones.named_tensors().items():
        gradient = others.named_tensors()[name].grad
        assert gradient is not None
        assert tensor.grad is not None
        assert (gradient - tensor.grad).norm() <= tolerance * tensor.grad.norm(), name


@pytest.mark.parametrize("recompute", [None, Recompute(every=1), Recompute(every=2)], ids=str)
@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("kv_storage", ["f32", "int8"])
def test_gradients_are_those_of_every_microbatch_for_itself(kv_storage: KVStorage, kernels, recompute):
    plain = tiny_decoder(tiny_spec(num_layers=3, head_dim=32))
    decoder = Decoder(plain.spec, replace(plain.weights, kv_storage=kv_storage))
    choose_kernels(kernels)
    try:
        check(
            decoder, tiny_adapter(plain.spec), 1e-2 if kv_storage == "int8" and kernels == "auto" else 2e-5, recompute
        )
    finally:
        choose_kernels("auto")


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family_in_float64(changes: dict[str, object]):
    spec = tiny_spec(**changes)
    check(tiny_decoder(spec, dtype=torch.float64), tiny_adapter(spec, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_family(changes: dict[str, object]):
    spec = tiny_spec(**changes)
    check(tiny_decoder(spec), tiny_adapter(spec), 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_quantized_weights(kind: Kind):
    """Their gradients are in bf16 or int8, rounded alike but for the order of sums."""
    spec = tiny_spec(hidden_size=64, intermediate_size=100, head_dim=16)
    check(in_int8(kind, spec), tiny_adapter(spec), 2e-2)


@pytest.mark.parametrize("kv_storage", ["f32", "int8"])
def test_hidden_states_are_the_same_bit_for_bit(kv_storage: KVStorage):
    plain = tiny_decoder()
    decoder = Decoder(plain.spec, replace(plain.weights, kv_storage=kv_storage))
    for found, expected in zip(learn_with_prefix(decoder, None), each_for_itself(decoder, None), strict=True):
        assert torch.equal(found, expected)
