"""Weights that a checkpoint holds in bitsandbytes' 4 or 8 bits: which, and how, from headers; needs no torch.

transformers' save_pretrained writes a 4-bit module as `weight` (two codes a byte), `weight.absmax`, the codes' maps and
a tensor of JSON text; an LLM.int8 module as `weight`, `SCB` and `weight_format`. Modules left in 16 bits lie beside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from groat.model.modules import linear_modules
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.model.tensor_files import StoredTensor
from groat.types import StorageKind, UserError

BLOCK, SCALE_BLOCK = 64, 256
"""Weights that share a scale, scales that share one: what bitsandbytes chooses unless told otherwise."""
_STATE, _SCALES = ".quant_state.bitsandbytes__", ".SCB"
_MOST_STATE_BYTES = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNF4:
    """A weight in NF4; `outer_scales` and `offset` are there if its scales were quantized themselves."""

    shape: tuple[int, int]
    codes: StoredTensor
    scales: StoredTensor
    outer_scales: StoredTensor | None
    offset: float
    maps: tuple[StoredTensor, ...]
    """The 16 values of the codes, and the 256 of quantized scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInt8:
    """A weight in int8, `127 / scale` steps to 1 in each row."""

    shape: tuple[int, int]
    values: StoredTensor
    scales: StoredTensor


Quantized = StoredNF4 | StoredInt8


def split_quantized(stored: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], dict[str, Quantized]]:
    """All weights under their shapes as numbers, and more of those that are quantized.

    A UserError for what groat cannot read exactly.
    """
    plain, quantized = dict(stored), dict[str, Quantized]()
    for name in stored:
        if _STATE in name:
            weight, _, kind = name.partition(_STATE)
            quantized[weight] = _nf4(plain, weight, kind)
        elif name.endswith(_SCALES):
            weight = f"{name.removesuffix(_SCALES)}.weight"
            quantized[weight] = _int8(plain, name, weight)
    for name, found in quantized.items():
        kind = "NF4" if isinstance(found, StoredNF4) else "int8"
        plain[name] = replace(stored[name], shape=found.shape, number_type=kind)
    return plain, quantized


def _nf4(stored: dict[str, StoredTensor], name: str, kind: str) -> StoredNF4:
    """Takes what belongs to the weight, but for the weight itself, out of `stored`."""
    state_tensor = stored.pop(f"{name}{_STATE}{kind}")
    where = f"{state_tensor.path}: {name}"
    if kind != "nf4":
        raise UserError(
            f"{where} is stored in bitsandbytes' {kind[:20]}; groat reads nf4 and int8. Use a checkpoint in nf4, or "
            "the unquantized model."
        )
    state = _State(state_tensor, where)
    shape = state.shape()
    num_blocks = -(-shape[0] * shape[1] // BLOCK)
    codes = _part(stored, name, where, "U8", -(-shape[0] * shape[1] // 2), keep=True)
    outer = None
    maps = [_part(stored, f"{name}.quant_map", where, "F32", 16)]
    if is_nested := f"{name}.nested_absmax" in stored:
        state.must_be("nested_blocksize", SCALE_BLOCK)
        outer = _part(stored, f"{name}.nested_absmax", where, "F32", -(-num_blocks // SCALE_BLOCK))
        maps.append(_part(stored, f"{name}.nested_quant_map", where, "F32", 256))
    scales = _part(stored, f"{name}.absmax", where, "U8" if is_nested else "F32", num_blocks)
    offset = state.offset() if is_nested else 0.0
    return StoredNF4(shape=shape, codes=codes, scales=scales, outer_scales=outer, offset=offset, maps=tuple(maps))


def _int8(stored: dict[str, StoredTensor], scales: str, name: str) -> StoredInt8:
    where = f"{stored[scales].path}: {name}"
    weight = stored.get(name)
    if weight is None or weight.number_type != "I8" or len(weight.shape) != 2:
        raise UserError(f"{where}, which has scales, is no matrix of I8. The file is damaged: get it again.")
    layout = stored.pop(f"{name}_format", None)
    if layout is not None and any(layout.read()):
        raise UserError(
            f"{where} lies in the order of a GPU's kernels (weight_format). Save the model again with a newer "
            "bitsandbytes, or use the unquantized model."
        )
    return StoredInt8(
        shape=(weight.shape[0], weight.shape[1]),
        values=weight,
        scales=_part(stored, scales, where, "F32", weight.shape[0]),
    )


def _part(
    stored: dict[str, StoredTensor], name: str, where: str, number_type: str, count: int, keep: bool = False
) -> StoredTensor:
    found = stored.get(name) if keep else stored.pop(name, None)
    if found is None:
        raise UserError(f"{where} is quantized, but the file has no {name}. Get the file again.")
    if found.number_type != number_type or math.prod(found.shape) != count:
        raise UserError(
            f"{where} is quantized; {name} is {list(found.shape)} of {found.number_type}, where {count} of "
            f"{number_type} are expected. Quantize with bnb_4bit_quant_storage uint8, or get the file again."
        )
    return found


class _State:
    """The JSON text beside a 4-bit weight."""

    def __init__(self, stored: StoredTensor, where: str) -> None:
        self._where = f"{where}, quant_state"
        if stored.num_bytes > _MOST_STATE_BYTES:
            raise self._wrong(f"has {stored.num_bytes} bytes")
        try:
            state = json.loads(stored.read().tobytes().decode())
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"is no JSON ({str(error)[:100]})") from error
        if not isinstance(state, dict):
            raise self._wrong("is no JSON object")
        self._state = cast(dict[str, Any], state)
        self.must_be("quant_type", "nf4")
        self.must_be("blocksize", BLOCK)

    def must_be(self, key: str, expected: str | int) -> None:
        if self._state.get(key) != expected:
            raise UserError(
                f"{self._where}: {key} is {str(self._state.get(key))[:40]}; groat reads {expected}. Quantize the model "
                "with bitsandbytes' usual settings, or use the unquantized model."
            )

    def shape(self) -> tuple[int, int]:
        shape = self._state.get("shape")
        if not isinstance(shape, list) or len(cast(list[Any], shape)) != 2:
            raise self._wrong("has no shape of two numbers")
        rows, columns = cast(list[Any], shape)
        if not all(type(size) is int and 0 < size < 2**31 for size in (rows, columns)):
            raise self._wrong(f"has the shape {str(shape)[:40]}")
        return rows, columns

    def offset(self) -> float:
        offset = self._state.get("nested_offset")
        if isinstance(offset, bool) or not isinstance(offset, int | float) or not abs(offset) < 3e38:
            raise self._wrong(f"has the nested_offset {str(offset)[:40]}")
        return float(offset)

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self._where} {what}. The file is damaged: get it again.")


def has_double_scales(parts: Sequence[Quantized | None]) -> bool:
    """Whether parts in NF4 keep their quantized scales when they become one matrix: 256 of them share a scale and an
    offset, so every part but the last must fill them."""
    sizes = [part.shape[0] * part.shape[1] for part in parts if isinstance(part, StoredNF4) and part.outer_scales]
    return len(sizes) == len(parts) and not any(size % (BLOCK * SCALE_BLOCK) for size in sizes[:-1])


def kind_of_parts(weights: Sequence[StoredTensor], parts: Sequence[Quantized | None]) -> StorageKind | None:
    """How a matrix made of these weights is kept so that it loses nothing; None if none is quantized.

    Where not all parts are of one kind, or blocks would straddle two, the matrix is kept in 16 or 32 bits. In bf16 a
    quantized part is rounded as bitsandbytes itself rounds it before it computes.
    """
    if not any(parts):
        return None
    if all(isinstance(part, StoredInt8) for part in parts):
        return "int8"
    if all(isinstance(part, StoredNF4) for part in parts):
        sizes = [part.shape[0] * part.shape[1] for part in parts if part]
        return "f32" if any(size % BLOCK for size in sizes[:-1]) else "nf4"
    others = {weight.number_type for weight, part in zip(weights, parts, strict=True) if part is None}
    return "bf16" if others == {"BF16"} else "f32"


def storage_of(stored: Mapping[str, StoredTensor], quantized: Mapping[str, Quantized], spec: ModelSpec) -> Storage:
    """The kinds of all layers' matrices of a checkpoint that holds some quantized; embedding and head are free where
    they are not."""
    kinds: dict[str, StorageKind] = {}
    plain_scales: list[str] = []
    for ours, names in _matrices(spec):
        weights = [stored[name] for name in names if name in stored]
        parts = [quantized.get(name) for name in names if name in stored]
        kind = kind_of_parts(weights, parts)
        if kind is None and ours.startswith("layers."):
            kind = "bf16" if all(weight.number_type == "BF16" for weight in weights) else "f32"
        if kind is not None:
            kinds[ours] = kind
        if kind == "int8" or (kind == "nf4" and not has_double_scales(parts)):
            plain_scales.append(ours)
    usual = "int8" if all(isinstance(part, StoredInt8) for part in quantized.values()) else "nf4"
    return Storage(layers=usual, exceptions=kinds, plain_scales=tuple(plain_scales), given=True)


def _matrices(spec: ModelSpec) -> list[tuple[str, list[str]]]:
    """Our matrices, and the weights of a checkpoint that they are made of."""
    matrices = [("embedding", ["model.embed_tokens.weight"])]
    if not spec.tied_head:
        matrices.append(("head", ["lm_head.weight"]))
    for index in range(spec.num_layers):
        for name, parts in linear_modules(spec).items():
            names = [f"model.layers.{index}.{part.name}.weight" for part in parts]
            matrices.append((f"layers.{index}.{name}", names))
    return matrices
