"""Keys and values while sampling: prompts once per tree node, completions in an arena of slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from groat.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class PrefixKV:
    """One run of prompt tokens: keys and values [layers, L, K, D], and the hidden state [H] of its last token."""

    keys: torch.Tensor
    values: torch.Tensor
    last_hidden_H: torch.Tensor


class SuffixArena:
    """Keys and values of the tokens drawn so far, [slots, K, length, D] per layer.

    Slots are kept in the order of the live sequences; the arena grows in length by blocks, and is rearranged
    when sequences enter or enough of them have left.
    """

    block = 64

    def __init__(self, spec: ModelSpec, max_length: int, dtype: torch.dtype) -> None:
        self._spec = spec
        self._max_length = max_length
        empty = torch.empty(0, spec.num_kv_heads, min(self.block, max_length), spec.head_dim, dtype=dtype)
        self.keys = [empty] * spec.num_layers
        self.values = [empty] * spec.num_layers

    @property
    def num_slots(self) -> int:
        return self.keys[0].shape[0]

    def rearrange(self, slots: Sequence[int | None]) -> None:
        """Slot i becomes what slot `slots[i]` was, or an empty one for None."""
        kept = [(new, old) for new, old in enumerate(slots) if old is not None]
        new_rows, old_rows = (torch.tensor([pair[side] for pair in kept], dtype=torch.long) for side in (0, 1))

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            # Zeros, not whatever was there: masked keys must still be finite.
            rearranged = tensor.new_zeros(len(slots), *tensor.shape[1:])
            rearranged[new_rows] = tensor[old_rows]
            return rearranged

        self._replace(moved)

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens per slot."""
        have = self.keys[0].shape[2]
        if length <= have:
            return
        blocks = -(-max(length, have + have // 2) // self.block)
        wanted = min(blocks * self.block, self._max_length)

        def longer(tensor: torch.Tensor) -> torch.Tensor:
            grown = tensor.new_zeros(tensor.shape[0], tensor.shape[1], wanted, tensor.shape[3])
            grown[:, :, :have] = tensor
            return grown

        self._replace(longer)

    def _replace(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for tensors in (self.keys, self.values):
            for layer in range(self._spec.num_layers):
                # One layer at a time: the old and the new arena never exist whole at once.
                tensors[layer] = change(tensors[layer])
