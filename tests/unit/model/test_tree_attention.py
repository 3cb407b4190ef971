"""Attention over trees beside dense attention with a mask, and each fused kernel beside its plain twin."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from groat.kernels.kv import KV
from groat.model.attention import (
    attend_block,
    attend_block_by_matmul,
    block_gradients,
    block_gradients_by_matmul,
    merge,
    tree_attention,
    tree_attention_with_lse,
)
from groat.sampling.native.attention import attend_slots, attend_slots_by_matmul
from groat.trees import Forest, grow

HEADS, KV_HEADS, SIZE = 4, 2, 6


def random_forest(seed: int) -> Forest:
    source = random.Random(seed)
    paths = [tuple(source.choices((1, 2), k=source.randint(1, 20))) for _ in range(source.randint(1, 10))]
    paths += [(*path, 1, 2, 2) for path in source.sample(paths, len(paths) // 3)]
    return grow(paths, min_shared=source.randint(1, 4), max_run=source.choice([None, 3]))


def random_qkv(
    queries: int, keys: int, seed: int = 0, heads: tuple[int, int] = (HEADS, KV_HEADS), size: int = SIZE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((queries, heads[0], size), (keys, heads[1], size), (keys, heads[1], size))
    return tuple(  # type: ignore[return-value]
        (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_() for shape in shapes
    )


def dense_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sees_TT: torch.Tensor
) -> torch.Tensor:
    """Scores of every token against every token, those it does not see at minus infinity."""
    group = queries.shape[1] // keys.shape[1]
    scores = torch.einsum("tad,lad->atl", queries, keys.repeat_interleave(group, 1)) / queries.shape[-1] ** 0.5
    weights = scores.masked_fill(~sees_TT, -torch.inf).softmax(-1)
    return torch.einsum("atl,lad->tad", weights, values.repeat_interleave(group, 1))


def sees(forest: Forest) -> torch.Tensor:
    """Token i sees token j if some path passes through both, j first: read off the paths, not off the nodes."""
    total = len(forest.token_ids)
    sees_TT = torch.zeros(total, total, dtype=torch.bool)
    for path in range(len(forest.chains)):
        rows = forest.rows(path)
        for place, row in enumerate(rows):
            sees_TT[row, rows[: place + 1]] = True
    return sees_TT


@pytest.mark.parametrize("seed", range(25))
def test_tree_attention_is_dense_attention_with_a_mask(seed: int):
    forest = random_forest(seed)
    tensors = random_qkv(len(forest.token_ids), len(forest.token_ids), seed)
    ours, dense = tree_attention(*tensors, forest.nodes), dense_attention(*tensors, sees(forest))
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-12)

    weight = torch.randn(ours.shape, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((ours * weight).sum(), tensors),
        torch.autograd.grad((dense * weight).sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_tree_attention_is_right_where_a_kernel_works_in_several_tiles():
    """The CPU kernel takes up to 256 queries and 512 keys at a time; the prompt here has 700."""
    forest = grow([(*range(700), 1, *range(300)), (*range(700), 2, *range(5))])
    tensors = random_qkv(len(forest.token_ids), len(forest.token_ids))
    torch.testing.assert_close(
        tree_attention(*tensors, forest.nodes), dense_attention(*tensors, sees(forest)), rtol=0, atol=1e-12
    )
    ours = torch.autograd.grad(tree_attention(*tensors, forest.nodes).square().sum(), tensors)
    dense = torch.autograd.grad(dense_attention(*tensors, sees(forest)).square().sum(), tensors)
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (6, 2)])
def test_any_number_of_query_heads_shares_a_key_head(heads: tuple[int, int]):
    forest = random_forest(3)
    tensors = random_qkv(len(forest.token_ids), len(forest.token_ids), heads=heads)
    ours, dense = tree_attention(*tensors, forest.nodes), dense_attention(*tensors, sees(forest))
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(ours.square().sum(), tensors),
        torch.autograd.grad(dense.square().sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


def test_gradient_is_right_for_a_gradient_that_is_one_number_expanded():
    """`sum().backward()` hands over a tensor whose strides are all 0."""
    forest = random_forest(1)
    tensors = random_qkv(len(forest.token_ids), len(forest.token_ids))
    ours = torch.autograd.grad(tree_attention(*tensors, forest.nodes).sum(), tensors)
    dense = torch.autograd.grad(dense_attention(*tensors, sees(forest)).sum(), tensors)
    for mine, theirs in zip(ours, dense, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_gradient_of_tree_attention_is_its_finite_difference():
    forest = grow([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6, 7), (1, 2, 3, 4, 6, 7, 8, 9, 9, 9), (5, 5)], min_shared=2)
    tensors = random_qkv(len(forest.token_ids), len(forest.token_ids))
    assert torch.autograd.gradcheck(lambda *tensors: tree_attention(*tensors, forest.nodes), tensors)


@pytest.mark.parametrize(("rows", "keys", "causal"), [(5, 5, True), (9, 4, True), (1, 1, True), (3, 8, False)])
def test_fused_block_equals_plain_matmuls(rows: int, keys: int, causal: bool):
    queries, key, value = random_qkv(rows, keys)
    for mine, theirs in zip(
        attend_block(queries, key, value, causal), attend_block_by_matmul(queries, key, value, causal), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "keys", "causal"), [(5, 5, True), (9, 4, True), (1, 1, True), (3, 8, False)])
def test_fused_gradients_equal_plain_matmuls(rows: int, keys: int, causal: bool):
    queries, key, value = (tensor.detach() for tensor in random_qkv(rows, keys))
    output, lse = attend_block_by_matmul(queries, key, value, causal)
    # As if the rows attended to another block as well.
    merge(output := output.clone(), lse := lse.clone(), torch.randn_like(output), torch.randn_like(lse))
    arguments = (torch.randn_like(output), queries, key, value, output, lse, causal)
    for mine, theirs in zip(block_gradients(*arguments), block_gradients_by_matmul(*arguments), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_merged_halves_are_the_whole():
    queries, keys, values = (tensor.detach() for tensor in random_qkv(3, 10))
    whole, whole_lse = attend_block_by_matmul(queries, keys, values, causal=False)
    output, lse = attend_block_by_matmul(queries, keys[:7], values[:7], causal=False)
    merge(output, lse, *attend_block_by_matmul(queries, keys[7:], values[7:], causal=False))
    torch.testing.assert_close(output, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, whole_lse, rtol=0, atol=1e-12)


def test_log_sum_exp_of_a_first_token_is_its_own_score():
    queries, keys, values = random_qkv(1, 1, heads=(1, 1))
    _, lse = tree_attention_with_lse(queries, KV(keys, values), grow([(1,)]).nodes)
    torch.testing.assert_close(lse[0, 0], queries[0, 0] @ keys[0, 0] / SIZE**0.5)


@pytest.mark.parametrize("lengths", [(4, 4, 4), (1, 3, 5), (1, 1, 70)])
@pytest.mark.parametrize("attend", [attend_slots, attend_slots_by_matmul])
def test_every_slot_attends_to_its_own_keys(attend: Callable[..., tuple[torch.Tensor, torch.Tensor]], lengths):
    slots, longest = len(lengths), max(lengths)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(slots, KV_HEADS, 2, SIZE, generator=generator)
    keys, values = (torch.randn(slots, KV_HEADS, longest + 3, SIZE, generator=generator) for _ in range(2))
    hidden = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[:, None, None] if hidden.any() else None
    output, lse = attend(queries, keys[:, :, :longest], values[:, :, :longest], mask)
    for slot, length in enumerate(lengths):
        expected, expected_lse = attend_block_by_matmul(
            queries[slot].reshape(1, -1, SIZE), keys[slot, :, :length].transpose(0, 1),
            values[slot, :, :length].transpose(0, 1), causal=False,
        )  # fmt: skip
        torch.testing.assert_close(output[slot].reshape(1, -1, SIZE), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(lse[slot].reshape(-1, 1), expected_lse, rtol=0, atol=1e-5)
