"""Attention while decoding: one new token per sequence, a run of prompt tokens for all sequences below it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from groat.kernels.attend import RUN_FIELDS, SPAN_FIELDS, attend_spans, has_native_attention, remember
from groat.kernels.kv import turned
from groat.kernels.layers import Past
from groat.model.attention import attend_block, merge
from groat.model.decoder import Attend
from groat.sampling.native.cache import SuffixArena
from groat.sampling.native.prefill import Prefixes


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRow:
    """A live sequence: its slot in the arena, the tokens remembered there, and the prompt nodes above it."""

    slot: int
    length: int
    chain: tuple[int, ...]


def decode_attention(prefixes: Prefixes, arena: SuffixArena, live: Sequence[LiveRow]) -> Attend:
    """Attention of the newest token of each row, which it remembers first; rows of a prompt node lie side by side."""
    kind = _NativeAttention if has_native_attention(arena.layers[0]) else _TorchAttention
    attend = kind(prefixes, arena, live)
    if arena.layers[0].storage == "f32":
        return attend
    return lambda layer, queries, keys, values: attend(layer, turned(queries), turned(keys), values)


def decode_past(prefixes: Prefixes, arena: SuffixArena, live: Sequence[LiveRow]) -> Past:
    """What the newest tokens of these rows see, and where their own keys and values go."""
    slots_S = torch.tensor([row.slot for row in live])
    lengths_S = torch.tensor([row.length for row in live])
    nodes = sorted({node for row in live for node in row.chain})
    own = _own_runs(arena, slots_S.numpy(), lengths_S.numpy() + 1)
    table = np.concatenate([own, _prompt_runs(prefixes, nodes, len(arena.layers))], axis=1)
    places = {node: len(live) + index for index, node in enumerate(nodes)}
    chains = [[*(places[node] for node in row.chain), index] for index, row in enumerate(live)]
    return Past(
        arena=arena.layers,
        addresses=arena.addresses,
        slots_S=slots_S,
        places_S=lengths_S,
        spans=_row_spans(chains, table[0, :, 0].tolist()),
        runs=table[:, [place for chain in chains for place in chain]],
    )


class _NativeAttention:
    """One kernel call per layer: every sequence goes through the runs of its prompt and its own tokens."""

    def __init__(self, prefixes: Prefixes, arena: SuffixArena, live: Sequence[LiveRow]) -> None:
        self._past = decode_past(prefixes, arena, live)

    def __call__(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        past = self._past
        remember(keys, values, past.arena[layer], past.slots_S, past.places_S)
        return attend_spans(queries, past.spans, past.runs[layer], keys.shape[1])[0]


def _prompt_runs(prefixes: Prefixes, nodes: Sequence[int], num_layers: int) -> np.ndarray:
    """[layers, nodes, RUN_FIELDS]."""
    runs = np.empty((num_layers, len(nodes), RUN_FIELDS), np.int64)
    layers = np.arange(num_layers)
    for index, node in enumerate(nodes):
        kv = prefixes.kv(node)
        runs[:, index, :3] = kv.keys.shape[1], kv.keys.stride(1), kv.keys.stride(2)
        runs[:, index, 3:] = np.array(kv.addresses()) + layers[:, None] * np.array(kv.entry_bytes)
    return runs


def _own_runs(arena: SuffixArena, slots_S: np.ndarray, counts_S: np.ndarray) -> np.ndarray:
    """[layers, S, RUN_FIELDS]."""
    runs = np.empty((len(arena.layers), len(slots_S), RUN_FIELDS), np.int64)
    keys = arena.layers[0].keys
    runs[:, :, 0] = counts_S
    runs[:, :, 1], runs[:, :, 2] = keys.stride(2), keys.stride(1)
    runs[:, :, 3:] = arena.addresses[:, None] + slots_S[None, :, None] * np.array(arena.layers[0].entry_bytes)
    return runs


def _row_spans(chains: Sequence[Sequence[int]], counts: Sequence[int]) -> np.ndarray:
    """[S, SPAN_FIELDS]: each row sees all keys of its runs, the last of which is its own."""
    lengths = [len(chain) for chain in chains]
    positions = [sum(counts[place] for place in chain) - 1 for chain in chains]
    spans = np.empty((len(chains), SPAN_FIELDS), np.int64)
    spans[:, 0], spans[:, 1], spans[:, 2] = np.arange(len(chains)), 1, positions
    spans[:, 3], spans[:, 4] = np.cumsum([0, *lengths[:-1]]), lengths
    return spans


class _TorchAttention:
    """The same in torch's operators: partial results are merged by their log-sum-exp."""

    def __init__(self, prefixes: Prefixes, arena: SuffixArena, live: Sequence[LiveRow]) -> None:
        self._arena = arena
        self._levels = [[(prefixes.kv(node), rows) for node, rows in level] for level in _rows_by_level(live)]
        lengths = [row.length for row in live]
        slots = [row.slot for row in live]
        self._slots_S = torch.tensor(slots)
        self._lengths_S = torch.tensor(lengths)
        self._longest = max(lengths) + 1
        self._in_order = slots == list(range(arena.num_slots))
        # A slot whose sequence has left sees its first token: harmless, and never read.
        seen_C = torch.zeros(arena.num_slots, dtype=torch.long).index_copy_(0, self._slots_S, self._lengths_S)
        hidden_CL = torch.arange(self._longest) > seen_C[:, None]
        # In the dtype of the queries: the fused kernel reads any other as garbage, without a word.
        mask_CL = arena.layers[0].like_exact.new_zeros(hidden_CL.shape).masked_fill_(hidden_CL, -torch.inf)
        self._mask_C11L = mask_CL[:, None, None, :] if bool(hidden_CL.any()) else None

    def __call__(self, layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        arena = self._arena
        remember(keys, values, arena.layers[layer], self._slots_S, self._lengths_S)
        output, lse = self._attend_suffixes(layer, queries)
        for level in self._levels:
            blocks = [
                attend_block(queries[rows], *kv.each(lambda tensor: tensor[layer]).exact, causal=False)
                for kv, rows in level
            ]
            # A level's nodes lie side by side, so that one merge serves them all.
            rows = slice(level[0][1].start, level[-1][1].stop)
            level_output, level_lse = torch.cat([b for b, _ in blocks]), torch.cat([lse for _, lse in blocks], dim=1)
            merge(output[rows], lse[:, rows], level_output, level_lse)
        return output

    def _attend_suffixes(self, layer: int, queries_SAD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads, size = queries_SAD.shape[1:]
        keys, values = self._arena.layers[layer].each(lambda tensor: tensor[:, :, : self._longest]).exact
        kv_heads = keys.shape[1]
        if not self._in_order:
            spread = queries_SAD.new_zeros(self._arena.num_slots, heads, size)
            queries_SAD = spread.index_copy_(0, self._slots_S, queries_SAD)
        queries_CKGD = queries_SAD.reshape(-1, kv_heads, heads // kv_heads, size)
        output_CKGD, lse_CKG = attend_slots(queries_CKGD, keys, values, self._mask_C11L)
        output, lse = output_CKGD.reshape(-1, heads, size), lse_CKG.reshape(-1, heads).T
        if not self._in_order:
            output, lse = output[self._slots_S], lse[:, self._slots_S]
        return output, lse.contiguous()


def attend_slots(
    queries_CKGD: torch.Tensor, keys_CKLD: torch.Tensor, values_CKLD: torch.Tensor, mask_C11L: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each slot's queries over its own keys; returns output [C, K, G, D] and log-sum-exp [C, K, G]."""
    if queries_CKGD.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries_CKGD, keys_CKLD, values_CKLD, 0.0, False, attn_mask=mask_C11L
        )
    return attend_slots_by_matmul(queries_CKGD, keys_CKLD, values_CKLD, mask_C11L)


def attend_slots_by_matmul(
    queries_CKGD: torch.Tensor, keys_CKLD: torch.Tensor, values_CKLD: torch.Tensor, mask_C11L: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain matmuls, for devices without the fused kernel (not run on a GPU)."""
    scores_CKGL = queries_CKGD @ keys_CKLD.transpose(-1, -2) * queries_CKGD.shape[-1] ** -0.5
    if mask_C11L is not None:
        scores_CKGL = scores_CKGL + mask_C11L
    lse_CKG = scores_CKGL.logsumexp(-1)
    return (scores_CKGL - lse_CKG[..., None]).exp() @ values_CKLD, lse_CKG


def _rows_by_level(live: Sequence[LiveRow]) -> list[list[tuple[int, slice]]]:
    """The prompt nodes in use, each with the range of live sequences below it, in lists whose ranges touch.

    `live` is sorted by rank, so a node's sequences lie side by side, and so do those of the nodes of one depth, but
    for prompts that end above it.
    """
    levels: dict[tuple[int, int], list[tuple[int, slice]]] = {}
    for row, live_row in enumerate(live):
        for depth, node in enumerate(live_row.chain):
            _extend(levels, depth, node, row)
    return list(levels.values())


def _extend(levels: dict[tuple[int, int], list[tuple[int, slice]]], depth: int, node: int, row: int) -> None:
    """Add a row to a node's range; a gap at this depth begins a new list."""
    number = max((number for level, number in levels if level == depth), default=0)
    nodes = levels.setdefault((depth, number), [])
    if nodes and nodes[-1][0] == node:
        nodes[-1] = (node, slice(nodes[-1][1].start, row + 1))
    elif not nodes or nodes[-1][1].stop == row:
        nodes.append((node, slice(row, row + 1)))
    else:
        levels[depth, number + 1] = [(node, slice(row, row + 1))]
