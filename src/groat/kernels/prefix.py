"""A beginning that many micro-batches share, computed once: what they attend to, and the gradients they find for it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from groat.kernels.kv import KV
from groat.types import KVStorage

_POINTER = ctypes.c_void_p


class PrefixAddresses(ctypes.Structure):
    """`Prefix` of kernels.h."""

    _fields_ = (
        ("count", ctypes.c_int64),
        *((name, _POINTER) for name in ("keys", "values", "key_scales", "value_scales", "grad_keys", "grad_values")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPrefix:
    """A layer's."""

    kv: KV
    """[P, K, D]."""
    gradients: tuple[torch.Tensor, torch.Tensor] | None
    """Of the keys and the values [P, K, D] that `kv` stands for, summed over micro-batches; None: nobody learns."""

    @property
    def exact(self) -> LayerPrefix:
        """With the keys and values that its own stand for; the gradients are the same tensors."""
        return replace(self, kv=KV(*self.kv.exact))

    def addresses(self) -> PrefixAddresses:
        """As the kernels take it."""
        keys, values, key_scales, value_scales = self.kv.addresses()
        grad_keys, grad_values = self.gradients or (None, None)
        return PrefixAddresses(
            count=len(self.kv.keys),
            keys=keys,
            values=values,
            key_scales=key_scales or None,
            value_scales=value_scales or None,
            grad_keys=None if grad_keys is None else grad_keys.data_ptr(),
            grad_values=None if grad_values is None else grad_values.data_ptr(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """Filled by the forward of its tokens, read by those that come after them."""

    num_tokens: int
    layers: Sequence[LayerPrefix]

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], storage: KVStorage, dtype: torch.dtype, *, learns: bool) -> Prefix:
        """Room for one of this shape [layers, P, K, D]; `dtype` is that of all that is not rounded."""
        num_layers, *of_layer = shape

        def layer() -> LayerPrefix:
            gradients = (torch.zeros(*of_layer, dtype=dtype), torch.zeros(*of_layer, dtype=dtype)) if learns else None
            return LayerPrefix(kv=KV.zeros(of_layer, storage, dtype), gradients=gradients)

        return cls(num_tokens=of_layer[0], layers=[layer() for _ in range(num_layers)])
