"""Compiled attention and its gradients: against plain matmuls in float64, and bit for bit however the work is cut."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from groat.kernels.attend import attend_spans
from groat.kernels.build import build_library
from groat.kernels.kv import KV, turned
from groat.kernels.native import choose_kernels, native_for
from groat.model.attention import as_kept, tree_attention, tree_attention_with_lse, tree_gradients
from groat.trees import Node, grow
from groat.types import KVStorage

LARGE_SHAPES = [(9, 3, 64), (6, 2, 128), (14, 2, 64), (16, 1, 64), (4, 4, 192), (12, 1, 256)]
SHAPES = [*LARGE_SHAPES, (2, 2, 33), (8, 1, 20), (5, 1, 96), (16, 2, 80), (4, 2, 6), (2, 1, 1)]
"""Query heads, kv heads, head size: groups of 1, 2, 3, 5, 7, 8, 12 and 16. Heads of whole 64s attend in int8, by tiles
or VNNI."""

FORESTS = {
    "one token": grow([(1,)]),
    "a prompt and its completions": grow([(*range(40), path, *range(200, 300 + path)) for path in range(3)]),
    "branches of branches": grow(
        [
            (*range(30), 1, *range(100), first, *range(20, 50), second, *range(70))
            for first in (2, 3)
            for second in (4, 5)
        ]
    ),
    "three trees": grow([tuple(range(260)), (7, *range(5)), (7, *range(5), 9, 9, 9, 9), (8, *range(130))]),
    "chains of cut runs": grow([(*range(150), 1, 2), (*range(150), 3, 4, 5)], max_run=50),
}

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(autouse=True)
def needs_the_kernels():
    if platform.system() != "Linux" or not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")
    assert native_for(torch.zeros(1)) is not None, build_library().reason


def random_qkv(tokens: int, shape: tuple[int, int, int]) -> Tensors:
    generator = torch.Generator().manual_seed(tokens)
    heads, kv_heads, size = shape
    queries, keys, values = (
        torch.randn(tokens, count, size, generator=generator) for count in (heads, kv_heads, kv_heads)
    )
    return queries, keys, values


def sees(nodes: tuple[Node, ...]) -> torch.Tensor:
    """Whether a token attends to another: to those of its node and of the nodes above, up to itself."""
    tokens = max(node.end for node in nodes)
    sees_TT = torch.zeros(tokens, tokens, dtype=torch.bool)
    for node in nodes:
        sees_TT[node.start : node.subtree_end, node.start : node.end] = True
    return sees_TT.tril()


def by_matmul(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, nodes: tuple[Node, ...]) -> torch.Tensor:
    group = queries.shape[1] // keys.shape[1]
    scores_ATL = torch.einsum("tad,lad->atl", queries, keys.repeat_interleave(group, 1)) / queries.shape[2] ** 0.5
    weights_ATL = scores_ATL.masked_fill(~sees(nodes), -torch.inf).softmax(-1)
    return torch.einsum("atl,lad->tad", weights_ATL, values.repeat_interleave(group, 1))


def gradients(attend, tensors: Tensors, nodes: tuple[Node, ...], dtype: torch.dtype = torch.float32) -> Tensors:
    leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in tensors]
    output = attend(*leaves, nodes)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return torch.autograd.grad(output, leaves, weight)  # type: ignore[return-value]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORESTS)
def test_gradients_are_those_of_plain_matmuls_in_float64(name: str, shape: tuple[int, int, int]):
    nodes = FORESTS[name].nodes
    tensors = random_qkv(len(FORESTS[name].token_ids), shape)
    found, expected = gradients(tree_attention, tensors, nodes), gradients(by_matmul, tensors, nodes, torch.float64)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORESTS)
def test_attention_to_rounded_keys_and_values_is_that_of_plain_matmuls_in_float64(
    name: str, shape: tuple[int, int, int]
):
    """Heads of whole 64s may be attended to in int8, where queries keep 15 bits: half a step of the largest of them, 3
    or 4 here, is 1e-4, and so a score is off by up to 3e-4, and its weight by as large a part."""
    forest = FORESTS[name]
    queries, keys, values = random_qkv(len(forest.token_ids), shape)
    kept = KV.keep(keys, values, "int8")
    output, lse = tree_attention_with_lse(queries, kept, forest.nodes)
    exact_keys, exact_values = kept.exact
    expected = by_matmul(queries.double(), exact_keys.double(), exact_values.double(), forest.nodes)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=5e-4)
    _, plain_lse = tree_attention_with_lse(queries, KV(exact_keys, exact_values), forest.nodes)
    torch.testing.assert_close(lse, plain_lse, rtol=0, atol=5e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORESTS)
def test_gradients_in_bfloat16_keep_its_eight_bits(name: str, shape: tuple[int, int, int]):
    """Two factors are off by up to 2^-9 each, by a third of that as a rule; weights are nearly those of fp32, though
    scores are some tens here. Where a token sees itself alone all cancels out, to little of what the factors are."""
    nodes = FORESTS[name].nodes
    queries, keys, values = random_qkv(len(FORESTS[name].token_ids), shape)
    queries = 4 * queries
    output, lse = tree_attention_with_lse(queries, KV(keys, values), nodes)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    given = (grad, queries, keys, values, output, lse, nodes)
    scale = grad.norm() * torch.cat([keys.flatten(), queries.flatten()]).square().mean().sqrt()
    for found, expected in zip(tree_gradients(*given, in_bfloat16=True), tree_gradients(*given), strict=True):
        assert (found - expected).norm() <= 0.005 * max(expected.norm(), 0.1 * scale)


def test_a_learners_gradients_to_int8_keys_are_in_bfloat16_where_it_has_them():
    tensors = random_qkv(40, (9, 3, 64))
    nodes = grow([tuple(range(40))]).nodes
    queries, own = as_kept(*tensors, "int8")
    output, lse = tree_attention_with_lse(queries, own, nodes)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    expected = tree_gradients(weight, queries, *own.exact, output, lse, nodes, in_bfloat16=True)

    def attend(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, nodes: tuple[Node, ...]
    ) -> torch.Tensor:
        return tree_attention(queries, keys, values, nodes, "int8")

    found_q, found_k, found_v = gradients(attend, tensors, nodes)
    assert torch.equal(found_v, expected[2])
    assert torch.equal(found_q, turned(expected[0]))
    assert torch.equal(found_k, turned(expected[1]))


@pytest.mark.parametrize("storage", ["f32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_not_finite_is_noticed(shape: tuple[int, int, int], storage: KVStorage):
    nodes = grow([tuple(range(130))]).nodes
    for index in range(3):
        tensors = random_qkv(130, shape)
        tensors[index][70] = torch.nan
        queries, *own = tensors
        output, _ = tree_attention_with_lse(queries, KV.keep(*own, storage), nodes)
        assert output[70].isnan().all()
        assert output[:70].isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_torchs_kernel(shape: tuple[int, int, int]):
    forest = FORESTS["branches of branches"]
    tensors = random_qkv(len(forest.token_ids), shape)
    found = gradients(tree_attention, tensors, forest.nodes)
    choose_kernels("torch")
    try:
        expected = gradients(tree_attention, tensors, forest.nodes)
    finally:
        choose_kernels("auto")
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)


def test_a_gradient_is_its_finite_difference():
    """The loss changes along a random direction as the gradients say, to the few digits that fp32 leaves."""
    forest = FORESTS["a prompt and its completions"]
    tensors = random_qkv(len(forest.token_ids), (6, 2, 16))
    directions = [torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) for tensor in tensors]
    weight = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).double()

    def loss(step: float) -> float:
        moved = [tensor + step * direction for tensor, direction in zip(tensors, directions, strict=True)]
        return (tree_attention(*moved, forest.nodes).double() * weight).sum().item()

    slope = sum(
        (gradient.double() * direction).sum().item()
        for gradient, direction in zip(gradients(tree_attention, tensors, forest.nodes), directions, strict=True)
    )
    assert (loss(1e-3) - loss(-1e-3)) / 2e-3 == pytest.approx(slope, rel=1e-3)


def test_a_gradient_of_equal_numbers_without_strides_is_read_right():
    forest = FORESTS["three trees"]
    leaves = [tensor.requires_grad_() for tensor in random_qkv(len(forest.token_ids), (4, 2, 8))]
    output = tree_attention(*leaves, forest.nodes)
    expected = torch.autograd.grad(output, leaves, torch.ones_like(output), retain_graph=True)
    for mine, theirs in zip(torch.autograd.grad(output.sum(), leaves), expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("storage", ["f32", "int8"])
@pytest.mark.parametrize("shape", [(9, 3, 64), (8, 1, 20)])
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, int, int], storage: KVStorage):
    forest = FORESTS["branches of branches"]
    tensors = random_qkv(len(forest.token_ids), shape)

    def attend(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, nodes: tuple[Node, ...]
    ) -> torch.Tensor:
        return tree_attention(queries, keys, values, nodes, storage)

    def all_of_it() -> list[torch.Tensor]:
        queries, *own = tensors
        attention = tree_attention_with_lse(queries, KV.keep(*own, storage), forest.nodes)
        return [*attention, *gradients(attend, tensors, forest.nodes)]

    with threads(1):
        expected = all_of_it()
    for count in (2, 3):
        with threads(count):
            assert all(map(torch.equal, all_of_it(), expected))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("storage", ["f32", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_decoded_tokens_have_the_attention_of_the_learners_trees(
    shape: tuple[int, int, int], storage: KVStorage, count: int
):
    """Every token of a completion on its own, below a prompt of 40, its keys where the sampler's arena has them."""
    forest = FORESTS["a prompt and its completions"]
    queries, keys, values = random_qkv(len(forest.token_ids), shape)
    own = KV.keep(keys, values, storage)
    output, lse = tree_attention_with_lse(queries, own, forest.nodes)
    prompt = forest.nodes[0]
    spans: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    rows: list[int] = []
    arenas: list[KV] = []
    for node in forest.nodes[1:]:
        # Head by head, as the arena has them.
        arenas.append(own.each(lambda t, n=node: t[n.start : n.end].transpose(0, 1).contiguous().transpose(0, 1)))
        for length in range(1, node.end - node.start + 1):
            spans.append((len(rows), 1, prompt.end + length - 1, len(runs), 2))
            runs += [own.fields(prompt.start, prompt.end), arenas[-1].fields(0, length)]
            rows.append(node.start + length - 1)
    with threads(count):
        decoded, decoded_lse = attend_spans(
            queries[rows], np.array(spans, np.int64), np.array(runs, np.int64), keys.shape[1]
        )
    assert torch.equal(decoded, output[rows])
    assert torch.equal(decoded_lse, lse[:, rows])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_notices_nothing_of_what_comes_after_it(shape: tuple[int, int, int]):
    """Not even a key and a value that are no numbers."""
    nodes = grow([tuple(range(200))]).nodes
    queries, keys, values = random_qkv(200, shape)
    expected, expected_lse = tree_attention_with_lse(queries, KV(keys, values), nodes)
    for row in (1, 63, 64, 66, 129, 199):
        spoiled_keys, spoiled_values = keys.clone(), values.clone()
        spoiled_keys[row:] = spoiled_values[row:] = torch.nan
        output, lse = tree_attention_with_lse(queries, KV(spoiled_keys, spoiled_values), nodes)
        assert torch.equal(output[:row], expected[:row])
        assert torch.equal(lse[:, :row], expected_lse[:, :row])
        assert output[row:].isnan().all()
