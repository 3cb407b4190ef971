"""Attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from groat.kernels.kv import KV
from groat.kernels.native import native_for
from groat.kernels.prefix import LayerPrefix
from groat.kernels.rooms import room_like
from groat.trees import Node

RUN_FIELDS = 7
"""number of keys, stride of a token, stride of a head, addresses of the keys, the values and the scales of both."""
SPAN_FIELDS = 5
"""first row, number of rows, position of the first, first run, number of runs."""


def attend_spans(
    queries_TAD: torch.Tensor, spans: np.ndarray, runs: np.ndarray, num_kv_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [T, A, D] and log-sum-exp [A, T] of every row; only where `has_native_attention`.

    `spans` [spans, SPAN_FIELDS] cover every row once; those of one span follow one another, and see the keys of its
    `runs` up to their own, which are the last ones. Both are int64; the caller keeps alive what they point to. A row's
    numbers are the same, bit for bit, however its keys are cut into runs and whatever other rows there are.
    """
    native = native_for(queries_TAD)
    assert native is not None
    queries_TAD, runs = queries_TAD.contiguous(), np.ascontiguousarray(runs)
    rows, heads, size = queries_TAD.shape
    output_TAD, lse_AT = room_like(queries_TAD, rows, heads, size), queries_TAD.new_empty(heads, rows)
    native.groat_attend(
        *(queries_TAD.data_ptr(), output_TAD.data_ptr(), lse_AT.data_ptr(), spans.ctypes.data, len(spans)),
        *(runs.ctypes.data, rows, heads, num_kv_heads, size, torch.get_num_threads()),
    )
    return output_TAD, lse_AT


def attend_spans_backward(
    grad_TAD: torch.Tensor,
    queries_TAD: torch.Tensor,
    output_TAD: torch.Tensor,
    lse_AT: torch.Tensor,
    own: KV,
    spans: np.ndarray,
    runs: np.ndarray,
    *,
    in_bfloat16: bool,
    before: LayerPrefix | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries [T, A, D], keys and values [T, K, D], given what `attend_spans` found; in bf16 where the CPU
    has matrix tiles for that and the caller can bear it.

    All `runs` lie in `own`, which is contiguous and fp32, or are all of `before`, likewise, to whose gradients they
    add. The same, bit for bit, whatever the number of threads; each holds the gradients of one path's keys and values
    for one kv head, [2, longest path, D].
    """
    native = native_for(queries_TAD, own.keys)
    assert native is not None
    assert own.keys.is_contiguous()
    runs = np.ascontiguousarray(runs)
    given = [tensor.contiguous() for tensor in (grad_TAD, queries_TAD, output_TAD, lse_AT)]
    gradients = [room_like(tensor, *tensor.shape) for tensor in (queries_TAD, own.keys, own.values)]
    (rows, heads, size), kv_heads = queries_TAD.shape, own.keys.shape[1]
    prefix = None if before is None else before.addresses()
    native.groat_attend_backward(
        *(tensor.data_ptr() for tensor in given),
        *(own.keys.data_ptr(), spans.ctypes.data, len(spans), runs.ctypes.data),
        None if prefix is None else ctypes.addressof(prefix),
        *(tensor.data_ptr() for tensor in gradients),
        *(rows, heads, kv_heads, size, int(in_bfloat16), torch.get_num_threads()),
    )
    grad_q_TAD, grad_k_TKD, grad_v_TKD = gradients
    return grad_q_TAD, grad_k_TKD, grad_v_TKD


def tree_spans(nodes: Sequence[Node], own: KV, before: Mapping[int, Sequence[KV]]) -> tuple[np.ndarray, np.ndarray]:
    """A span for each node of a forest, and the runs of its path. `before` has what comes before some of the roots, by
    their number."""
    spans: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    outside: list[tuple[int, ...]] = []
    for index, path in enumerate(_paths(nodes)):
        if len(path) == 1:
            outside = [run.fields(0, len(run.keys)) for run in before.get(index, ())]
        here = [*outside, *(own.fields(node.start, node.end) for node in path)]
        spans.append(_span(path[-1], here, len(runs)))
        runs.extend(here)
    return np.array(spans, np.int64), np.array(runs, np.int64)


def tree_places(nodes: Sequence[Node], num_before: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The spans of `tree_spans`, where so many tokens come before all roots; of each run how many tokens it has and its
    first, which is -1 for those."""
    spans: list[tuple[int, ...]] = []
    runs: list[tuple[int, int]] = []
    for path in _paths(nodes):
        here = [(num_before, -1)] if num_before else []
        here += [(node.end - node.start, node.start) for node in path]
        spans.append(_span(path[-1], here, len(runs)))
        runs.extend(here)
    return np.array(spans, np.int64), np.array(runs, np.int64)


def _paths(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """For each node those above it, from the root, and itself."""
    path: list[Node] = []
    for node in nodes:
        while path and path[-1].subtree_end <= node.start:
            path.pop()
        path.append(node)
        yield [*path]


def _span(node: Node, runs: Sequence[tuple[int, ...]], first_run: int) -> tuple[int, ...]:
    """A node's, whose path has these runs; the first field of each is its number of tokens."""
    return node.start, node.end - node.start, sum(run[0] for run in runs[:-1]), first_run, len(runs)


def has_native_attention(kv: KV, *queries_TAD: torch.Tensor) -> bool:
    """Whether these can go to `attend_spans`."""
    return native_for(kv.like_exact, *queries_TAD) is not None


def remember(
    keys_SKD: torch.Tensor, values_SKD: torch.Tensor, arena: KV, slots_S: torch.Tensor, places_S: torch.Tensor
) -> None:
    """Write each row's new key and value into its slot of the arena [C, K, L, D], at its place; rounded if it is."""
    native = native_for(keys_SKD, values_SKD)
    if native is None or not (keys_SKD.is_contiguous() and values_SKD.is_contiguous()):
        kept = KV.keep(keys_SKD, values_SKD, arena.storage)
        arena.put((slots_S, slice(None), places_S), kept)
        return
    rows, kv_heads, size = keys_SKD.shape
    arena_keys, arena_values = np.array(arena.addresses(), np.int64).reshape(2, 2).T.copy()
    native.groat_remember(
        *(keys_SKD.data_ptr(), values_SKD.data_ptr(), arena_keys.ctypes.data, arena_values.ctypes.data),
        *(slots_S.data_ptr(), places_S.data_ptr(), rows, kv_heads, arena.keys.shape[2], size),
    )
