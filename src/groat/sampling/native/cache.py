"""Keys and values while sampling: prompts once per tree node, completions in an arena of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from groat.kernels.huge_pages import zeros_in_huge_pages
from groat.kernels.kv import KV
from groat.model.spec import ModelSpec
from groat.types import KVStorage


@dataclass(frozen=True, slots=True)
class Prefix:
    """One run of prompt tokens: keys and values [layers, L, K, D], and the hidden state [H] of its last token."""

    kv: KV
    last_hidden_H: torch.Tensor


class SuffixArena:
    """Keys and values of the tokens drawn so far, [slots, K, length, D] per layer.

    Slots are kept in the order of the live sequences; the arena grows in length by blocks, and is rearranged
    when sequences enter or enough of them have left.
    """

    block = 64

    def __init__(self, spec: ModelSpec, max_length: int, storage: KVStorage, dtype: torch.dtype) -> None:
        self._max_length = max_length
        empty = KV.zeros((0, spec.num_kv_heads, min(self.block, max_length), spec.head_dim), storage, dtype)
        self.layers = [empty] * spec.num_layers
        self.addresses = _addresses(self.layers)
        """[layers, 4]: where each layer's tensors begin, as `KV.addresses` says. Every step asks for it."""

    @property
    def num_slots(self) -> int:
        return self.layers[0].keys.shape[0]

    def rearrange(self, slots: Sequence[int | None]) -> None:
        """Slot i becomes what slot `slots[i]` was, or an empty one for None."""
        kept = [(new, old) for new, old in enumerate(slots) if old is not None]
        new_rows, old_rows = (torch.tensor([pair[side] for pair in kept], dtype=torch.long) for side in (0, 1))

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            # Zeros, not whatever was there: masked keys must still be finite.
            rearranged = zeros_in_huge_pages(tensor, len(slots), *tensor.shape[1:])
            rearranged[new_rows] = tensor[old_rows]
            return rearranged

        self._replace(moved)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens per slot."""
        have = self.layers[0].keys.shape[2]
        if length <= have:
            return
        blocks = -(-max(length, have + have // 2) // self.block)
        wanted = min(blocks * self.block, self._max_length)

        def longer(tensor: torch.Tensor) -> torch.Tensor:
            grown = zeros_in_huge_pages(tensor, tensor.shape[0], tensor.shape[1], wanted, tensor.shape[3])
            grown[:, :, :have] = tensor
            return grown

        self._replace(longer)

    def _replace(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for layer, kv in enumerate(self.layers):
            # One layer at a time: the old and the new arena never exist whole at once.
            self.layers[layer] = kv.each(change)
        self.addresses = _addresses(self.layers)


def _addresses(layers: Sequence[KV]) -> np.ndarray:
    return np.array([kv.addresses() for kv in layers], np.int64)
