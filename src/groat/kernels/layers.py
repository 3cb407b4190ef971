"""All layers of a decoder on the newest token of each sequence, in one call of the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from groat.kernels.attend import RUN_FIELDS
from groat.kernels.matrix import Matrix, view_of
from groat.kernels.native import native_for
from groat.kernels.ops import in_sixteens, scratch_floats
from groat.kernels.rooms import room_like

_POINTER, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ROUNDING = 16 * 16
"""Numbers that the kernel's pieces of memory, less than 16 of them, lose by beginning where a cache line of 16 does."""


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
    norm_epsilon: float
    adapter_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Where the keys and values of a step's sequences are, and where those of the new tokens go."""

    arena_keys: Sequence[torch.Tensor]
    """Of each layer [slots, K, length, D]."""
    arena_values: Sequence[torch.Tensor]
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
        *((name, _LONG) for name in ("layers", "hidden", "inner", "heads", "kv_heads", "head_size")),
        *((name, _FLOAT) for name in ("epsilon", "adapter_scale")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *(("rows", _LONG), ("rotated_half", _LONG), ("cosines", _POINTER), ("sines", _POINTER)),
        *(("spans", _POINTER), ("num_spans", _LONG)),
        *(("runs", _POINTER), ("num_runs", _LONG), ("keys", _POINTER), ("values", _POINTER)),
        *(("slots", _POINTER), ("places", _POINTER), ("arena_length", _LONG)),
    )


class CompiledLayers:
    """The layers as the kernel takes them. Weights and adapters may change their numbers, but not their places."""

    def __init__(self, layers: Sequence[DecoderLayer], shape: DecoderShape) -> None:
        native = native_for()
        assert native is not None, "ask `can_compile` first"
        self._native = native
        self._kept: list[Any] = []
        """What the kernel is told the place of."""
        self._layers = (_Layer * len(layers))(*(self._layer(layer) for layer in layers))
        self._shape = _Shape(
            layers=len(layers),
            hidden=len(layers[0].input_norm_H),
            inner=layers[0].down.weight_NK.shape[1],
            heads=shape.num_heads,
            kv_heads=shape.num_kv_heads,
            head_size=shape.head_dim,
            epsilon=shape.norm_epsilon,
            adapter_scale=shape.adapter_scale,
        )
        self._row_floats = _row_floats(layers[0], shape)

    def decode(self, hidden_SH: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], past: Past) -> torch.Tensor:
        """The residual stream after the last layer, in place of `hidden_SH`; the new keys and values are remembered.

        `turns` are cosines and sines [S, 1, E]. A row's numbers are those of `decoder_layer`, bit for bit.
        """
        rows = len(hidden_SH)
        runs = np.ascontiguousarray(past.runs)
        assert runs.shape[0] == len(self._layers)
        assert runs.shape[2] == RUN_FIELDS
        keys, values = _addresses(past.arena_keys), _addresses(past.arena_values)
        step = _Step(
            rows=rows,
            rotated_half=turns[0].shape[-1],
            cosines=turns[0].data_ptr(),
            sines=turns[1].data_ptr(),
            spans=past.spans.ctypes.data,
            num_spans=len(past.spans),
            runs=runs.ctypes.data,
            num_runs=runs.shape[1],
            keys=keys.ctypes.data,
            values=values.ctypes.data,
            slots=past.slots_S.data_ptr(),
            places=past.places_S.data_ptr(),
            arena_length=past.arena_keys[0].shape[2],
        )
        room = room_like(hidden_SH, in_sixteens(rows) * self._row_floats + _ROUNDING)
        self._native.groat_decode(
            *(ctypes.addressof(self._layers), ctypes.addressof(self._shape), ctypes.addressof(step)),
            *(hidden_SH.data_ptr(), room.data_ptr(), torch.get_num_threads()),
        )
        return hidden_SH

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


def can_compile(layers: Sequence[DecoderLayer]) -> bool:
    """Whether the compiled kernels are there, and made for all that these layers compute with."""
    linears = [linear for layer in layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    tensors = [tensor for layer in layers for tensor in (layer.input_norm_H, layer.query_norm_D, layer.key_norm_D)]
    tensors += [tensor for linear in linears for tensor in (linear.bias_N, linear.a_RK, *linear.bs_NR)]
    return native_for(*tensors) is not None and all(view_of(linear.weight_NK) is not None for linear in linears)


def _row_floats(layer: DecoderLayer, shape: DecoderShape) -> int:
    """Numbers per row that the kernel needs beside the residual stream."""
    hidden, inner = len(layer.input_norm_H), layer.down.weight_NK.shape[1]
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    linears = (layer.qkv, layer.output, layer.gate_up, layer.down)
    downs = max(0 if linear.a_RK is None else len(linear.a_RK) for linear in linears)
    scratch = max(scratch_floats(linear.weight_NK) for linear in linears)
    attention = 2 * (queries + 2 * keys) + queries
    return 2 * hidden + shape.num_heads + max(attention, 3 * inner) + downs + scratch


def _addresses(tensors: Sequence[torch.Tensor]) -> np.ndarray:
    return np.array([tensor.data_ptr() for tensor in tensors], np.int64)
