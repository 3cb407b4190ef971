"""Keys and values as they are kept: fp32, or int8 with a scale for each head of a token.

Before keys are rounded to int8, they and the queries are turned: a Hadamard matrix is multiplied with blocks of a head.
It changes no product of the two, and spreads the few large numbers that keys have (QuaRot, arXiv:2404.00456).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from groat.kernels.native import native_for
from groat.types import KVStorage

_LARGEST_TURN = 64


class KV(NamedTuple):
    """Keys and values [..., D] of some tokens, and for int8 the scale [..., 1] of each head."""

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None

    @classmethod
    def keep(cls, keys: torch.Tensor, values: torch.Tensor, storage: KVStorage) -> KV:
        """These, which have been turned for int8, as they are kept."""
        if storage == "f32":
            return cls(keys.contiguous(), values.contiguous())
        (key_codes, key_scales), (value_codes, value_scales) = to_int8(keys), to_int8(values)
        return cls(key_codes, value_codes, key_scales, value_scales)

    @classmethod
    def zeros(cls, shape: Sequence[int], storage: KVStorage, dtype: torch.dtype) -> KV:
        """Room for keys and values of this shape; `dtype` is that of all that is not rounded."""
        if storage == "f32":
            return cls(torch.zeros(*shape, dtype=dtype), torch.zeros(*shape, dtype=dtype))
        codes = [torch.zeros(*shape, dtype=torch.int8) for _ in range(2)]
        scales = [torch.zeros(*shape[:-1], 1, dtype=dtype) for _ in range(2)]
        return cls(*codes, *scales)

    @property
    def storage(self) -> KVStorage:
        return "f32" if self.key_scales is None else "int8"

    @property
    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values that these stand for."""
        if self.key_scales is None or self.value_scales is None:
            return self.keys, self.values
        return self.keys * self.key_scales, self.values * self.value_scales

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> KV:
        """With every tensor changed."""
        return KV(*map(change, self.tensors))

    @property
    def like_exact(self) -> torch.Tensor:
        """One of the tensors, with the dtype and the device of what all of them stand for."""
        return self.keys if self.key_scales is None else self.key_scales

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Those that are there."""
        return [tensor for tensor in self if tensor is not None]

    def put(self, place: Any, other: KV) -> None:
        """Write `other` at an index."""
        for into, tensor in zip(self.tensors, other.tensors, strict=True):
            into[place] = tensor

    def fields(self, start: int, end: int) -> tuple[int, ...]:
        """Tokens [start, end) of keys and values [L, K, D] as `Run` of kernels.h has them."""
        token_stride, head_stride, _ = self.keys.stride()
        # The stride along a dimension of size 1 is anything.
        assert all(size == 1 or self.keys.stride(i) == self.values.stride(i) for i, size in enumerate(self.keys.shape))
        return (end - start, token_stride, head_stride, *self.addresses(start))

    def addresses(self, index: int = 0) -> tuple[int, ...]:
        """Where each tensor has entry `index` of its first dimension; 0 for those that are not there."""
        first = (0 if tensor is None else tensor.data_ptr() for tensor in self)
        return tuple(start + index * size for start, size in zip(first, self.entry_bytes, strict=True))

    @property
    def entry_bytes(self) -> tuple[int, ...]:
        """From one entry of the first dimension to the next, of each tensor; 0 for those that are not there."""
        return tuple(0 if tensor is None else tensor.stride(0) * tensor.element_size() for tensor in self)


def to_int8(numbers_XD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [..., D] in int8 and scales [..., 1]: 127 steps either side of zero, up to the largest number of a head.

    A head with a number that is not finite gets the scale NaN.
    """
    if (native := native_for(numbers_XD)) is not None:
        numbers_XD = numbers_XD.contiguous()
        codes_XD = torch.empty(numbers_XD.shape, dtype=torch.int8)
        scales_X1 = numbers_XD.new_empty(*numbers_XD.shape[:-1], 1)
        size = numbers_XD.shape[-1]
        native.groat_heads_to_int8(
            *(numbers_XD.data_ptr(), codes_XD.data_ptr(), scales_X1.data_ptr()),
            *(scales_X1.numel(), size, torch.get_num_threads()),
        )
        return codes_XD, scales_X1
    largest_X1 = numbers_XD.abs().amax(-1, keepdim=True)
    is_finite_X1 = largest_X1.isfinite()
    steps_X1 = torch.where(is_finite_X1 & (largest_X1 > 0), 127 / largest_X1, 0)
    codes_XD = torch.where(is_finite_X1, numbers_XD * steps_X1, 0).round().to(torch.int8)
    return codes_XD, torch.where(is_finite_X1, largest_X1 / 127, torch.nan)


def turned(heads_XD: torch.Tensor) -> torch.Tensor:
    """Blocks of each head, of the largest power of two up to 64 that divides it, times an orthonormal Hadamard matrix.

    That is its own inverse.
    """
    size = heads_XD.shape[-1]
    if (native := native_for(heads_XD)) is not None:
        turned_XD = heads_XD.clone(memory_format=torch.contiguous_format)
        native.groat_hadamard(turned_XD.data_ptr(), turned_XD.numel() // size, size, torch.get_num_threads())
        return turned_XD
    block = min(size & -size, _LARGEST_TURN)
    matrix_BB = _hadamard(block).to(heads_XD)
    return (heads_XD.unflatten(-1, (-1, block)) @ matrix_BB).flatten(-2)


def _hadamard(size: int) -> torch.Tensor:
    """Sylvester's, scaled to orthonormal rows, in float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / math.sqrt(size)
