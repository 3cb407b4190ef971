"""Token ids as transformers' tokenizers return them: a mapping with attributes, and tensors that may be sent around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch

from groat.trainers.models.devices import stays_here
from groat.types import UserError


class Encoding(dict[str, Any]):
    """`input_ids` and `attention_mask`, as lists or as tensors [batch, tokens]; also read as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"an encoding has {', '.join(self)}, but no {name}")

    def to(self, device: Any, **_: Any) -> Self:
        """The same: everything is on the CPU."""
        stays_here(device)
        return self


class TokenIds(torch.Tensor):
    """Ids [batch, tokens] that stay where they are."""

    def to(self, *args: Any, **_: Any) -> TokenIds:
        """The same: everything is on the CPU."""
        if args:
            stays_here(args[0])
        return self


def encoded(rows: Sequence[Sequence[int]], return_tensors: str | None, padding: Any, pad: int, side: str) -> Encoding:
    """Rows of ids and their masks; as a tensor they must be of one length, or padded on one side."""
    if return_tensors not in (None, "pt"):
        raise UserError(f"return_tensors is {return_tensors!r}: groat returns torch's tensors; say 'pt'")
    longest = max(map(len, rows), default=0)
    if return_tensors is not None and not padding and any(len(row) != longest for row in rows):
        raise UserError("texts of different lengths make no tensor: pass padding=True, or one text at a time")
    ids, mask = [list(row) for row in rows], [[1] * len(row) for row in rows]
    if padding:
        ids = [_filled(row, pad, longest, side) for row in ids]
        mask = [_filled(row, 0, longest, side) for row in mask]
    if return_tensors is None:
        return Encoding(input_ids=ids, attention_mask=mask)
    tensors = torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)
    ids_BT, mask_BT = (tensor.as_subclass(TokenIds) for tensor in tensors)
    return Encoding(input_ids=ids_BT, attention_mask=mask_BT)


def _filled(row: list[int], value: int, length: int, side: str) -> list[int]:
    filling = [value] * (length - len(row))
    return [*filling, *row] if side == "left" else [*row, *filling]
