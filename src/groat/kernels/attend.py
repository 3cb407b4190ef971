"""Attention of rows of tokens to what came before them, wherever it lies: a run of keys after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from groat.kernels.native import native_for
from groat.kernels.rooms import room_like
from groat.trees import Node

RUN_FIELDS = 5
"""number of keys, stride of a token, stride of a head, address of the keys, of the values."""
SPAN_FIELDS = 5
"""first row, number of rows, position of the first, first run, number of runs."""


class Runs(NamedTuple):
    """Keys and values [L, K, D] of some tokens that follow one another."""

    keys_LKD: torch.Tensor
    values_LKD: torch.Tensor

    def fields(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens [start, end) as the kernel takes them."""
        keys, values = self.keys_LKD, self.values_LKD
        # The stride along a dimension of size 1 is anything.
        assert all(size == 1 or keys.stride(i) == values.stride(i) for i, size in enumerate(keys.shape))
        skipped = start * keys.stride(0) * keys.element_size()
        return (end - start, keys.stride(0), keys.stride(1), keys.data_ptr() + skipped, values.data_ptr() + skipped)


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
    own: Runs,
    spans: np.ndarray,
    runs: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries [T, A, D], keys and values [T, K, D], given what `attend_spans` found.

    All `runs` lie in `own`, which is contiguous: there is nothing before the roots. The same, bit for bit, whatever the
    number of threads; each holds the gradients of one path's keys and values for one kv head, [2, longest path, D].
    """
    native = native_for(queries_TAD, own.keys_LKD)
    assert native is not None
    assert own.keys_LKD.is_contiguous()
    runs = np.ascontiguousarray(runs)
    given = [tensor.contiguous() for tensor in (grad_TAD, queries_TAD, output_TAD, lse_AT)]
    gradients = [room_like(tensor, *tensor.shape) for tensor in (queries_TAD, *own)]
    (rows, heads, size), kv_heads = queries_TAD.shape, own.keys_LKD.shape[1]
    native.groat_attend_backward(
        *(tensor.data_ptr() for tensor in given),
        *(own.keys_LKD.data_ptr(), spans.ctypes.data, len(spans), runs.ctypes.data),
        *(tensor.data_ptr() for tensor in gradients),
        *(rows, heads, kv_heads, size, torch.get_num_threads()),
    )
    grad_q_TAD, grad_k_TKD, grad_v_TKD = gradients
    return grad_q_TAD, grad_k_TKD, grad_v_TKD


def tree_spans(nodes: Sequence[Node], own: Runs, before: Mapping[int, Sequence[Runs]]) -> tuple[np.ndarray, np.ndarray]:
    """A span for each node of a forest, and the runs of its path. `before` has what comes before some of the roots, by
    their number."""
    spans: list[tuple[int, ...]] = []
    runs: list[tuple[int, ...]] = []
    outside: list[tuple[int, ...]] = []
    for index, path in enumerate(_paths(nodes)):
        if len(path) == 1:
            outside = [run.fields(0, len(run.keys_LKD)) for run in before.get(index, ())]
        here = [*outside, *(own.fields(node.start, node.end) for node in path)]
        spans.append(_span(path[-1], here, len(runs)))
        runs.extend(here)
    return np.array(spans, np.int64), np.array(runs, np.int64)


def tree_places(nodes: Sequence[Node]) -> tuple[np.ndarray, np.ndarray]:
    """The spans of `tree_spans`, where nothing comes before the roots; of each run how many tokens it has and its
    first."""
    spans: list[tuple[int, ...]] = []
    runs: list[tuple[int, int]] = []
    for path in _paths(nodes):
        here = [(node.end - node.start, node.start) for node in path]
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


def has_native_attention(keys: torch.Tensor) -> bool:
    """Whether keys of this kind can be attended to by `attend_spans`."""
    return native_for(keys) is not None


def remember(
    keys_SKD: torch.Tensor,
    values_SKD: torch.Tensor,
    arena_keys_CKLD: torch.Tensor,
    arena_values_CKLD: torch.Tensor,
    slots_S: torch.Tensor,
    places_S: torch.Tensor,
) -> None:
    """Write each row's new key and value into its slot, at its place."""
    native = native_for(keys_SKD, values_SKD, arena_keys_CKLD, arena_values_CKLD)
    if native is None or not (keys_SKD.is_contiguous() and values_SKD.is_contiguous()):
        arena_keys_CKLD[slots_S, :, places_S] = keys_SKD
        arena_values_CKLD[slots_S, :, places_S] = values_SKD
        return
    rows, kv_heads, size = keys_SKD.shape
    native.groat_remember(
        *(keys_SKD.data_ptr(), values_SKD.data_ptr(), arena_keys_CKLD.data_ptr(), arena_values_CKLD.data_ptr()),
        *(slots_S.data_ptr(), places_S.data_ptr(), rows, kv_heads, arena_keys_CKLD.shape[2], size),
    )
