"""Prompts as a forest: every shared run of tokens is computed once, kept while somebody needs it, then freed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from groat.kernels.attend import Runs
from groat.model.attention import tree_attention_with_lse
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.sampling.native.cache import PrefixKV
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
        self._kv: dict[int, PrefixKV] = {}

    def chain(self, prompt: int) -> tuple[int, ...]:
        """The nodes of a prompt, root first."""
        return self._forest.chains[prompt]

    def kv(self, node: int) -> PrefixKV:
        return self._kv[node]

    def rank(self, prompt: int) -> int:
        """Prompts in the order of their ranks keep every node's prompts side by side."""
        return self.chain(prompt)[-1]

    def last_hidden(self, prompt: int) -> torch.Tensor:
        """The hidden state [H] that predicts the first token of a completion."""
        return self._kv[self.chain(prompt)[-1]].last_hidden_H

    def compute(self, prompts: Sequence[int]) -> int:
        """Make sure of the keys and values of these prompts; returns how many tokens that took."""
        missing = sorted({node for prompt in prompts for node in self.chain(prompt)} - self._kv.keys())
        for nodes in self._batches(missing):
            self._compute_nodes(nodes)
        return sum(self._forest.nodes[node].end - self._forest.nodes[node].start for node in missing)

    def release(self, prompt: int) -> None:
        """Say that a prompt's completions are all drawn; frees what no other prompt needs."""
        for node in self.chain(prompt):
            self._needed[node] -= 1
            if not self._needed[node]:
                del self._kv[node]

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
        kept = [self._empty(node.end - node.start) for node in layout]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            for node, (node_keys, node_values) in zip(layout, kept, strict=True):
                node_keys[layer] = keys[node.start : node.end]
                node_values[layer] = values[node.start : node.end]
            before = {
                node: [Runs(self._kv[ancestor].keys[layer], self._kv[ancestor].values[layer]) for ancestor in ancestors]
                for node, ancestors in contexts.items()
            }
            return tree_attention_with_lse(queries, keys, values, layout, before)[0]

        token_ids = torch.tensor([self._forest.token_ids[row] for row in rows])
        positions = torch.tensor([self._forest.positions[row] for row in rows])
        hidden_TH = self._decoder.hidden(token_ids, positions, attend, self._adapter)
        for index, node, (keys, values) in zip(batch, layout, kept, strict=True):
            self._kv[index] = PrefixKV(keys, values, hidden_TH[node.end - 1].clone())

    def _empty(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for the keys and the values of a node."""
        spec = self._decoder.spec
        shape = (spec.num_layers, tokens, spec.num_kv_heads, spec.head_dim)
        dtype = self._decoder.weights.dtype
        return torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)

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
            computed = [ancestor for ancestor in ancestors if ancestor in self._kv]
            is_top = len(computed) == len(ancestors)
            if is_top:
                contexts[len(layout)] = computed
            layout.append(Node(start, start + node.end - node.start, start + size, is_root=is_top))
            rows.extend(range(node.start, node.end))
        return layout, contexts, rows
