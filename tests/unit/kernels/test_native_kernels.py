"""The compiled kernels against torch in float64, for sizes that do and do not fill a tile."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from groat.kernels import ops
from groat.kernels.attend import attend_spans, remember
from groat.kernels.build import build_library
from groat.kernels.draw import draw_tokens
from groat.kernels.kv import KV
from groat.kernels.matrix import TiledMatrix, dense_of, rows_of, stored
from groat.kernels.native import choose_kernels, native_for
from groat.model.attention import attend_block_by_matmul

SIZES = [(1, 1, 1), (1, 16, 8), (5, 33, 70), (6, 16, 192), (7, 48, 193), (13, 100, 576), (40, 7, 385), (400, 65, 130)]


@pytest.fixture(autouse=True)
def needs_the_kernels():
    # Skipped for want of a compiler only: where there is one, kernels that cannot be built fail every test here.
    if platform.system() != "Linux" or not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler")
    assert native_for(torch.zeros(1)) is not None, build_library().reason


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_are_those_of_float64(rows: int, outputs: int, inputs: int, with_bias: bool):
    x, weight, grad = random(rows, inputs), random(outputs, inputs, seed=1), random(rows, outputs, seed=2)
    bias = random(outputs, seed=3) if with_bias else None
    expected = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    in_tiles = stored(weight, "f32")
    assert isinstance(in_tiles, TiledMatrix)
    atol = 1e-5 * inputs**0.5
    close(ops.product(x, weight, bias), expected, atol)
    close(ops.product(x, in_tiles, bias), expected, atol)
    close(ops.straight_product(grad, in_tiles), grad.double() @ weight.double(), 1e-5 * outputs**0.5)


@pytest.mark.parametrize(("rows", "inputs"), [(3, 20), (50, 200)])
@pytest.mark.parametrize("sizes", [(7,), (16, 16), (33, 5, 48)])
def test_adapted_product_adds_each_part_its_own_adapter(rows: int, inputs: int, sizes: tuple[int, ...]):
    rank, scale = 4, 1.5
    x, weight, a = random(rows, inputs), random(sum(sizes), inputs, seed=1), random(rank * len(sizes), inputs, seed=2)
    bs = [random(size, rank, seed=10 + index) for index, size in enumerate(sizes)]
    parts = zip(a.double().split(rank), bs, strict=True)
    merged = weight.double() + scale * torch.cat([b.double() @ part for part, b in parts])
    for matrix in (weight, stored(weight, "f32")):
        adapted = ops.adapted_product(x, matrix, None, a, bs, scale)
        close(adapted.output_TN, x.double() @ merged.T, 3e-5 * inputs**0.5)
        close(adapted.down_TR, x.double() @ a.double().T, 1e-5 * inputs**0.5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    x, weight = random(200, 300), stored(random(100, 300, seed=1), "f32")
    together = ops.product(x, weight)
    for start, end in ((0, 1), (3, 9), (100, 200)):
        assert torch.equal(ops.product(x[start:end], weight), together[start:end])


def test_tiles_give_back_rows_and_the_whole():
    weight = random(37, 11)
    matrix = stored(weight, "f32")
    ids = torch.tensor([0, 36, 16, 15, 36])
    assert torch.equal(dense_of(matrix), weight)
    assert torch.equal(rows_of(matrix, ids), weight[ids])


def with_torch(compute: Callable[[], Any]) -> Any:
    choose_kernels("torch")
    try:
        return compute()
    finally:
        choose_kernels("auto")


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_elementwise_kernels_are_those_of_torch(size: int):
    x, weight, grad = random(9, size), random(size, seed=1), random(9, size, seed=2)
    gate_up, grad_up = 6 * random(9, 2 * size, seed=3), random(9, size, seed=4)

    def all_of_them() -> list[torch.Tensor]:
        normed = ops.rms_norm(x, weight, 1e-5)
        return [
            *normed,
            ops.rms_norm_gradient(grad, x, weight, normed.inverse_X1),
            ops.swiglu(gate_up),
            ops.swiglu_gradient(grad_up, gate_up),
        ]

    for found, expected in zip(all_of_them(), with_torch(all_of_them), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("half", [4, 3])
def test_rotation_of_a_slice_of_a_fused_projection_and_back(half: int):
    """Of heads of 8, all or the first 6 are turned."""
    fused = random(5, 6, 8)
    queries = fused[:, 1:5]
    angles = random(5, 1, half, seed=1)
    cos, sin = angles.cos(), angles.sin()
    turned = ops.rotate(queries, cos, sin, back=False)
    torch.testing.assert_close(turned, with_torch(lambda: ops.rotate(queries, cos, sin, back=False)))
    torch.testing.assert_close(ops.rotate(turned, cos, sin, back=True), queries, rtol=1e-5, atol=1e-6)
    assert torch.equal(turned[..., 2 * half :], queries[..., 2 * half :])


@pytest.mark.parametrize("vocabulary", [1, 5, 1024, 5000])
def test_token_logprobs_and_their_gradient_are_those_of_float64(vocabulary: int):
    logits = 4 * random(7, vocabulary)
    tokens = torch.randint(vocabulary, (7,), generator=torch.Generator().manual_seed(1))
    grad = random(7, seed=2)
    exact = logits.double().requires_grad_()
    logprobs = exact.log_softmax(-1)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    (expected,) = torch.autograd.grad((chosen * grad).sum(), exact)
    found = ops.token_logprobs(logits.clone(), tokens)
    close(found.logprobs_C, chosen.detach(), 5e-6)
    close(found.lse_C, exact.detach().logsumexp(-1), 5e-6)
    close(found.entropy_C, -(logprobs.exp() * logprobs).sum(-1).detach(), 5e-6)
    ops.token_logprob_gradient_(logits, tokens, found.lse_C, grad)
    close(logits, expected, 2e-6)


def test_impossible_tokens_have_no_share_in_the_entropy():
    logits = torch.full((1, 40), -torch.inf)
    logits[0, 3] = logits[0, 20] = 2.0
    found = ops.token_logprobs(logits, torch.tensor([3]))
    assert found.entropy_C.item() == pytest.approx(np.log(2), abs=1e-6)
    assert found.logprobs_C.item() == pytest.approx(-np.log(2), abs=1e-6)


SHAPES = [(9, 3, 64), (4, 1, 20), (2, 2, 128), (6, 2, 80), (4, 2, 6)]


@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
def test_attention_over_runs_of_keys(heads: int, kv_heads: int, size: int):
    """Spans of 1, 3 and 40 rows: the first sees a run of 130 keys and its own, the others also a run of 3."""
    shared = [random_run(count, kv_heads, size) for count in (130, 3)]
    own = [random_run(count, kv_heads, size, seed=count) for count in (1, 3, 40)]
    chains = [[shared[0], own[0]], [*shared, own[1]], [*shared, own[2]]]
    queries = random(44, heads, size)
    output, lse = attend_chains(queries, chains)
    first = 0
    for chain in chains:
        keys, values = (torch.cat([run[side] for run in chain]).double() for side in (0, 1))
        for row in range(len(chain[-1].keys)):
            seen = len(keys) - len(chain[-1].keys) + row + 1
            query = queries[first + row, None].double()
            expected, expected_lse = attend_block_by_matmul(query, keys[:seen], values[:seen], causal=False)
            close(output[first + row, None], expected)
            close(lse[:, first + row, None], expected_lse)
        first += len(chain[-1].keys)


@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
def test_a_row_has_the_same_attention_however_its_keys_are_cut_into_runs(heads: int, kv_heads: int, size: int):
    """200 tokens in one span; then each by itself, with the keys before it in runs of other lengths."""
    whole, queries = random_run(200, kv_heads, size), random(200, heads, size)
    together, lse = attend_chains(queries, [[whole]])
    for row, cuts in ((0, [0, 1]), (63, [0, 10, 64]), (64, [0, 64, 65]), (130, [0, 5, 70, 100, 131]), (199, [0, 200])):
        run = [KV(whole.keys[a:b].clone(), whole.values[a:b].clone()) for a, b in pairwise(cuts)]
        keys, values = run[-1].exact
        chain = [*run[:-1], KV(keys[:-1], values[:-1]), KV(keys[-1:], values[-1:])]
        alone, lse_alone = attend_chains(queries[row, None], [chain])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(lse_alone[:, 0], lse[:, row])


def random_run(count: int, kv_heads: int, size: int, seed: int = 0) -> KV:
    return KV(random(count, kv_heads, size, seed=2 * seed), random(count, kv_heads, size, seed=2 * seed + 1))


def attend_chains(queries: torch.Tensor, chains: list[list[KV]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Spans one behind the other, as long as the last run of each."""
    runs = [run.fields(0, len(run.keys)) for chain in chains for run in chain]
    spans: list[tuple[int, ...]] = []
    first_row = first_run = 0
    for chain in chains:
        *before, own = (len(run.keys) for run in chain)
        spans.append((first_row, own, sum(before), first_run, len(chain)))
        first_row, first_run = first_row + own, first_run + len(chain)
    kv_heads = chains[0][0].keys.shape[1]
    return attend_spans(queries, np.array(spans, np.int64), np.array(runs, np.int64), kv_heads)


def test_remember_writes_one_token_per_slot():
    keys, values = random(2, 3, 4), random(2, 3, 4, seed=1)
    arena = KV.zeros((5, 3, 6, 4), "f32", torch.float32)
    remember(keys, values, arena, torch.tensor([4, 1]), torch.tensor([5, 0]))
    assert torch.equal(arena.keys[4, :, 5], keys[0])
    assert torch.equal(arena.values[1, :, 0], values[1])
    assert arena.keys.count_nonzero() == keys.count_nonzero()


def test_draws_follow_the_distribution():
    """Equal steps through [0, 1) meet every token about as often as its probability says, over several blocks."""
    logits = 2 * random(1, 3000)
    count = 20_000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw_tokens(logits.repeat(count, 1), uniforms)
    frequencies = torch.bincount(drawn.token_ids_S, minlength=3000).double() / count
    assert (frequencies - logits[0].double().softmax(-1)).abs().max() < 1.5 / count
    close(drawn.lse_S[:1], logits.double().logsumexp(-1))


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_what_cannot_be_drawn_is_not(uniform: float):
    logits = torch.full((1, 5000), -torch.inf)
    logits[0, 1500] = 0.0
    assert draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64)).token_ids_S.item() == 1500


def test_logits_that_are_no_numbers_end_in_some_token():
    token = draw_tokens(torch.full((1, 100), torch.nan), torch.tensor([0.3])).token_ids_S.item()
    assert 0 <= token < 100
