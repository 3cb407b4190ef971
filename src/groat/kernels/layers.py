"""Decoder layers in single calls of the compiled kernels: on a sampler's newest tokens, and forward and backward on a
learner's micro-batch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from groat.kernels.attend import RUN_FIELDS, tree_places
from groat.kernels.kv import KV
from groat.kernels.matrix import Matrix, view_of
from groat.kernels.native import native_for
from groat.kernels.ops import gradient_scratch_floats, in_sixteens, scratch_floats
from groat.kernels.prefix import Prefix
from groat.kernels.rooms import room_like
from groat.trees import Node
from groat.types import KVStorage

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ROUNDING = 32 * 16
"""Numbers that the kernel's pieces of memory, less than 32 of them, lose by beginning where a cache line of 16 does."""


class AdaptedLinear(NamedTuple):
    """A frozen layer, its bias, and its LoRA adapter: A and the B's, or nothing."""

    weight_NK: Matrix
    bias_N: torch.Tensor | None
    a_RK: torch.Tensor | None = None
    bs_NR: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayer:
    """What one layer computes with."""

    qkv: AdaptedLinear
    output: AdaptedLinear
    gate_up: AdaptedLinear
    down: AdaptedLinear
    input_norm_H: torch.Tensor
    mlp_norm_H: torch.Tensor
    query_norm_D: torch.Tensor | None
    key_norm_D: torch.Tensor | None
    is_rotated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderShape:
    """Sizes that all layers share."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    kv_storage: KVStorage
    norm_epsilon: float
    adapter_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Where the keys and values of a step's sequences are, and where those of the new tokens go."""

    arena: Sequence[KV]
    """Of each layer [slots, K, length, D]."""
    addresses: np.ndarray
    """[layers, 4], of each layer's tensors."""
    slots_S: torch.Tensor
    places_S: torch.Tensor
    spans: np.ndarray
    """Those of `attend_spans`: a row each."""
    runs: np.ndarray
    """[layers, runs, RUN_FIELDS]."""


class _Linear(ctypes.Structure):
    _fields_ = (
        *(("weight", _POINTER), ("outputs", _LONG), ("inputs", _LONG), ("bias", _POINTER)),
        *(("a", _POINTER), ("bs", _POINTER), ("sizes", _POINTER), ("parts", _LONG), ("rank", _LONG)),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "output", "gate_up", "down")),
        *((name, _POINTER) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")),
        ("is_rotated", _LONG),
    )


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, _LONG) for name in ("hidden", "inner", "heads", "kv_heads", "head_size", "rounds_heads")),
        *((name, _FLOAT) for name in ("epsilon", "adapter_scale")),
    )


class _Tokens(ctypes.Structure):
    _fields_ = (
        *(("rows", _LONG), ("rotated_half", _LONG), ("cosines", _POINTER), ("sines", _POINTER)),
        *(("spans", _POINTER), ("num_spans", _LONG)),
    )


class _Past(ctypes.Structure):
    _fields_ = (
        *(("runs", _POINTER), ("num_runs", _LONG), ("keys", _POINTER), ("values", _POINTER)),
        *(("slots", _POINTER), ("places", _POINTER), ("arena_length", _LONG)),
    )


Turns = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [T, 1, E] of the tokens' positions."""


class TreeTokens:
    """The tokens of a micro-batch: their positions, and the trees by which they attend to one another. They come after
    a prefix, or make one, or neither."""

    def __init__(
        self, turns: Turns, nodes: Sequence[Node], before: Prefix | None = None, made: Prefix | None = None
    ) -> None:
        self.num_before = 0 if before is None else before.num_tokens
        spans, self._runs = tree_places(nodes, self.num_before)
        self._kept = (*turns, spans, before, made)
        self._tokens = _tokens(turns, spans)
        self._prefixes = [
            None if prefix is None else [layer.addresses() for layer in prefix.layers] for prefix in (before, made)
        ]

    def arguments(self, layer: int) -> tuple[int | None, ...]:
        """As the kernels take them."""
        before, made = (None if of is None else ctypes.addressof(of[layer]) for of in self._prefixes)
        return ctypes.addressof(self._tokens), self._runs.ctypes.data, len(self._runs), before, made


def _tokens(turns: Turns, spans: np.ndarray) -> _Tokens:
    cosines, sines = turns
    return _Tokens(
        rows=len(cosines),
        rotated_half=cosines.shape[-1],
        cosines=cosines.data_ptr(),
        sines=sines.data_ptr(),
        spans=spans.ctypes.data,
        num_spans=len(spans),
    )


class CompiledLayers:
    """The layers as the kernel takes them. Weights and adapters may change their numbers, but not their places."""

    def __init__(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> None:
        native = native_for()
        assert native is not None, "ask `can_compile` first"
        self._native = native
        self._kept: list[Any] = []
        """What the kernel is told the place of."""
        self._trained = [_trained(layer) for layer in layers]
        self._layers = (_Layer * len(layers))(*(self._layer(layer) for layer in layers))
        self._shape = _Shape(
            hidden=len(layers[0].input_norm_H),
            inner=layers[0].down.weight_NK.shape[1],
            heads=shape.num_heads,
            kv_heads=shape.num_kv_heads,
            head_size=shape.head_dim,
            rounds_heads=int(shape.kv_storage == "int8"),
            epsilon=shape.norm_epsilon,
            adapter_scale=shape.adapter_scale,
        )
        # Layers stored in different kinds need different room: there is enough for each.
        self._sizes = _RowSizes(*map(max, zip(*(_RowSizes.of(layer, shape) for layer in layers), strict=True)))

    def decode(self, hidden_SH: torch.Tensor, turns: Turns, past: Past) -> torch.Tensor:
        """The residual stream after the last layer, in place of `hidden_SH`; the new keys and values are remembered.

        A row's numbers are those of `decoder_layer`, bit for bit.
        """
        runs = np.ascontiguousarray(past.runs)
        assert runs.shape[0] == len(self._layers)
        assert runs.shape[2] == RUN_FIELDS
        # [keys or values, layers, numbers or scales]
        arena = past.addresses.reshape(-1, 2, 2).transpose(2, 0, 1).copy()
        tokens = _tokens(turns, past.spans)
        step = _Past(
            runs=runs.ctypes.data,
            num_runs=runs.shape[1],
            keys=arena[0].ctypes.data,
            values=arena[1].ctypes.data,
            slots=past.slots_S.data_ptr(),
            places=past.places_S.data_ptr(),
            arena_length=past.arena[0].keys.shape[2],
        )
        room = self._room(hidden_SH, self._sizes.kept + self._sizes.forward)
        self._native.groat_decode(
            *(ctypes.addressof(self._layers), len(self._layers), ctypes.addressof(self._shape)),
            *(ctypes.addressof(tokens), ctypes.addressof(step)),
            *(hidden_SH.data_ptr(), room.data_ptr(), torch.get_num_threads()),
        )
        return hidden_SH

    def forward(self, index: int, input_TH: torch.Tensor, tokens: TreeTokens) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream [T, H] after layer `index`, and what its backward needs of it beside the input.

        A row's numbers are those of `decoder_layer`, bit for bit.
        """
        output_TH, kept = room_like(input_TH, *input_TH.shape), self._room(input_TH, self._sizes.kept)
        room = self._room(input_TH, self._sizes.forward + self._sizes.rounded, torch.get_num_threads() * _ROUNDING)
        self._native.groat_layer_forward(
            *(self._address(index), ctypes.addressof(self._shape), *tokens.arguments(index)),
            *(input_TH.data_ptr(), output_TH.data_ptr(), kept.data_ptr()),
            *(room.data_ptr(), self._sizes.forward, torch.get_num_threads()),
        )
        return output_TH, kept

    def backward(
        self,
        index: int,
        input_TH: torch.Tensor,
        kept: torch.Tensor,
        grad_TH: torch.Tensor,
        tokens: TreeTokens,
        *,
        needs_input_grad: bool,
    ) -> torch.Tensor | None:
        """The gradient of the input; those of the adapter are added to `grad` of its tensors."""
        grad_TH = grad_TH.contiguous()
        grad_input_TH = room_like(input_TH, *input_TH.shape) if needs_input_grad else None
        addresses = _addresses([_gradient(tensor) for tensor in self._trained[index]])
        threads = torch.get_num_threads()
        adapter = sum(tensor.numel() + _ROUNDING for tensor in self._trained[index])
        in_floats = 2 * self._shape.kv_heads * self._shape.head_size * tokens.num_before
        others = threads * (_ROUNDING + adapter) + in_floats
        room = self._room(input_TH, self._sizes.backward + self._sizes.between, others)
        self._native.groat_layer_backward(
            *(self._address(index), ctypes.addressof(self._shape), *tokens.arguments(index)),
            *(input_TH.data_ptr(), kept.data_ptr(), grad_TH.data_ptr()),
            *(None if grad_input_TH is None else grad_input_TH.data_ptr(), addresses.ctypes.data),
            *(room.data_ptr(), self._sizes.backward, threads),
        )
        return grad_input_TH

    def _address(self, index: int) -> int:
        return ctypes.addressof(self._layers[index])

    def _room(self, like: torch.Tensor, row_floats: int, others: int = 0) -> torch.Tensor:
        return room_like(like, in_sixteens(len(like)) * row_floats + _ROUNDING + others)

    def _layer(self, layer: DecoderLayer) -> _Layer:
        self._kept.append(layer)
        norms = {name: getattr(layer, f"{name}_D") for name in ("query_norm", "key_norm")}
        return _Layer(
            **{name: self._linear(getattr(layer, name)) for name in ("qkv", "output", "gate_up", "down")},
            input_norm=layer.input_norm_H.data_ptr(),
            mlp_norm=layer.mlp_norm_H.data_ptr(),
            **{name: None if norm is None else norm.data_ptr() for name, norm in norms.items()},
            is_rotated=int(layer.is_rotated),
        )

    def _linear(self, linear: AdaptedLinear) -> _Linear:
        view = view_of(linear.weight_NK)
        assert view is not None, "ask `can_compile` first"
        parts = len(linear.bs_NR)
        bs = (_POINTER * parts)(*(b_NR.data_ptr() for b_NR in linear.bs_NR))
        sizes = (_LONG * parts)(*(len(b_NR) for b_NR in linear.bs_NR))
        self._kept += [view, bs, sizes]
        outputs, inputs = linear.weight_NK.shape
        return _Linear(
            weight=ctypes.addressof(view),
            outputs=outputs,
            inputs=inputs,
            bias=None if linear.bias_N is None else linear.bias_N.data_ptr(),
            a=None if linear.a_RK is None else linear.a_RK.data_ptr(),
            bs=ctypes.addressof(bs),
            sizes=ctypes.addressof(sizes),
            parts=parts,
            rank=linear.bs_NR[0].shape[1] if parts else 0,
        )


def _trained(layer: DecoderLayer) -> list[torch.Tensor]:
    """The adapter's tensors, in the order in which the kernel adds to their gradients."""
    linears = (layer.qkv, layer.output, layer.gate_up, layer.down)
    return [tensor for linear in linears if linear.a_RK is not None for tensor in (linear.a_RK, *linear.bs_NR)]


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's own, that others are added to; zeros if it has none yet."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad


def can_compile(layers: Sequence[DecoderLayer]) -> bool:
    """Whether the compiled kernels are there, and made for all that these layers compute with."""
    linears = [linear for layer in layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    tensors = [tensor for layer in layers for tensor in (layer.input_norm_H, layer.query_norm_D, layer.key_norm_D)]
    tensors += [tensor for linear in linears for tensor in (linear.bias_N, linear.a_RK, *linear.bs_NR)]
    return native_for(*tensors) is not None and all(view_of(linear.weight_NK) is not None for linear in linears)


class _RowSizes(NamedTuple):
    """Numbers per row."""

    kept: int
    """What backward needs of a layer, beside its input."""
    forward: int
    """What a layer takes beside that."""
    rounded: int
    """Keys and values in int8, beside their fp32, while forward attends to them."""
    backward: int
    between: int
    """Gradients that backward has of all rows at once."""

    @classmethod
    def of(cls, layer: DecoderLayer, shape: DecoderShape) -> _RowSizes:
        hidden, inner = len(layer.input_norm_H), layer.down.weight_NK.shape[1]
        queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        linears = (layer.qkv, layer.output, layer.gate_up, layer.down)
        downs = [0 if linear.a_RK is None else len(linear.a_RK) for linear in linears]
        plain = (queries if layer.query_norm_D is not None else 0) + (keys if layer.key_norm_D is not None else 0)
        inverses = shape.num_heads + shape.num_kv_heads
        heads = queries + 2 * keys
        in_int8 = shape.kv_storage == "int8"
        return cls(
            kept=2 * (queries + keys) + shape.num_heads + hidden + 2 * inner + plain + sum(downs),
            forward=max(heads + hidden + plain, hidden + inner)
            + inverses
            + max(scratch_floats(linear.weight_NK) for linear in linears),
            rounded=2 * (-(-keys // 4) + shape.num_kv_heads) if in_int8 else 0,
            between=hidden + queries + heads,
            backward=max(4 * inner, 2 * inner + 2 * hidden, heads + queries + plain, heads + 2 * hidden)
            + inverses
            + max(downs)
            + max(gradient_scratch_floats(linear.weight_NK, linear.bs_NR) for linear in linears),
        )


def _addresses(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], np.int64)
