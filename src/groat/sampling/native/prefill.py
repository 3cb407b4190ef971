"""Prompts as a forest: every shared run of tokens is computed once, kept while somebody needs it, then freed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from groat.kernels.kv import KV
from groat.model.attention import as_kept, tree_attention_with_lse
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.sampling.native.cache import Prefix
from groat.trees import Forest, Node, grow


class Prefixes:
    """The prompts of one call to `sample`, under one adapter."""

    def __init__(
        self, decoder: Decoder, adapter: Adapter | None, prompts: Sequence[tuple[int, ...]], max_tokens: int
    ) -> None:
        self._decoder = decoder
        self._adapter = adapter
        self._max_tokens = max_tokens
        self._forest: Forest = grow(prompts, max_run=max_tokens)
        self._needed = Counter(node for chain in self._forest.chains for node in chain)
        self._computed: dict[int, Prefix] = {}

    def chain(self, prompt: int) -> tuple[int, ...]:
        """The nodes of a prompt, root first."""
        return self._forest.chains[prompt]

    def kv(self, node: int) -> KV:
        """Of a node's tokens, [layers, L, K, D]."""
        return self._computed[node].kv

    def rank(self, prompt: int) -> int:
        """Prompts in the order of their ranks keep every node's prompts side by side."""
        return self.chain(prompt)[-1]

    def last_hidden(self, prompt: int) -> torch.Tensor:
        """The hidden state [H] that predicts the first token of a completion."""
        return self._computed[self.chain(prompt)[-1]].last_hidden_H

    def compute(self, prompts: Sequence[int]) -> int:
        """Make sure of the keys and values of these prompts; returns how many tokens that took."""
        missing = sorted({node for prompt in prompts for node in self.chain(prompt)} - self._computed.keys())
        for nodes in self._batches(missing):
            self._compute_nodes(nodes)
        return sum(self._forest.nodes[node].end - self._forest.nodes[node].start for node in missing)

    def release(self, prompt: int) -> None:
        """Say that a prompt's completions are all drawn; frees what no other prompt needs."""
        for node in self.chain(prompt):
            self._needed[node] -= 1
            if not self._needed[node]:
                del self._computed[node]

    def _batches(self, missing: Sequence[int]) -> Iterator[list[int]]:
        batch: list[int] = []
        used = 0
        for node in missing:
            more = self._forest.nodes[node].end - self._forest.nodes[node].start
            if batch and used + more > self._max_tokens:
                yield batch
                batch, used = [], 0
            batch.append(node)
            used += more
        if batch:
            yield batch

    def _compute_nodes(self, batch: Sequence[int]) -> None:
        """One forward over the tokens of these nodes, whose other ancestors are computed already."""
        layout, contexts, rows = self._lay_out(batch)
        weights = self._decoder.weights
        storage, dtype, spec = weights.kv_storage, weights.dtype, self._decoder.spec
        kept = [
            KV.zeros((spec.num_layers, node.end - node.start, spec.num_kv_heads, spec.head_dim), storage, dtype)
            for node in layout
        ]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            queries, own = as_kept(queries, keys, values, storage)
            for node, kv in zip(layout, kept, strict=True):
                kv.put(layer, own.each(lambda tensor, node=node: tensor[node.start : node.end]))
            before = {
                node: [self.kv(ancestor).each(lambda tensor: tensor[layer]) for ancestor in ancestors]
                for node, ancestors in contexts.items()
            }
            return tree_attention_with_lse(queries, own, layout, before)[0]

        token_ids = torch.tensor([self._forest.token_ids[row] for row in rows])
        positions = torch.tensor([self._forest.positions[row] for row in rows])
        hidden_TH = self._decoder.hidden(token_ids, positions, attend, self._adapter)
        for index, node, kv in zip(batch, layout, kept, strict=True):
            self._computed[index] = Prefix(kv, hidden_TH[node.end - 1].clone())

    def _lay_out(self, batch: Sequence[int]) -> tuple[list[Node], dict[int, list[int]], list[int]]:
        """Nodes laid out anew without gaps, the computed ancestors of the topmost, and the forest's rows."""
        layout: list[Node] = []
        contexts: dict[int, list[int]] = {}
        rows: list[int] = []
        for index in batch:
            node = self._forest.nodes[index]
            ancestors = self._forest.ancestors[index]
            inside = [
                self._forest.nodes[n] for n in batch if node.start <= self._forest.nodes[n].start < node.subtree_end
            ]
            start, size = len(rows), sum(other.end - other.start for other in inside)
            computed = [ancestor for ancestor in ancestors if ancestor in self._computed]
            is_top = len(computed) == len(ancestors)
            if is_top:
                contexts[len(layout)] = computed
            layout.append(Node(start, start + node.end - node.start, start + size, is_root=is_top))
            rows.extend(range(node.start, node.end))
        return layout, contexts, rows
