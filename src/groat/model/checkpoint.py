"""Weights read from safetensors files, one tensor at a time, into the fused layout.

Nothing is allocated before every name, shape and number type in the files was compared with the spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open

from groat.kernels.matrix import Matrix
from groat.model.files import read_json_object
from groat.model.modules import Module, linear_modules
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear, Weights
from groat.types import UserError

Store = Callable[[str, torch.Tensor], Matrix]
"""How a weight matrix, just read, is kept, by its name: `embedding`, `head`, `layers.3.gate_up`."""

_READABLE = {"F32", "F16", "BF16"}
_EMBEDDING = "model.embed_tokens.weight"
# Buffers that old checkpoints carry; recomputed from the config.
_IGNORED = re.compile(r"(^|\.)rotary_emb\.inv_freq$|\.masked_bias$")


def read_weights(folder: Path, spec: ModelSpec, store: Store = lambda _, weight_NK: weight_NK) -> Weights:
    """All weights in fp32, each matrix as `store` keeps it. Holds the model plus one tensor."""
    parts = WeightParts(folder, spec, store)
    embedding_VH = parts.embedding()
    return Weights(
        embedding_VH=embedding_VH,
        layers=tuple(parts.layer(index) for index in range(spec.num_layers)),
        final_norm_H=parts.final_norm(),
        head_VH=embedding_VH if spec.tied_head else parts.head(),
    )


class WeightParts:
    """The weights of a checkpoint, read part by part in any order; what is read is not kept here."""

    def __init__(self, folder: Path, spec: ModelSpec, store: Store = lambda _, weight_NK: weight_NK) -> None:
        stored = _stored_tensors(folder)
        _check_names_and_shapes(stored, spec, folder)
        self._tensors, self._spec = _Tensors(stored, store), spec

    def embedding(self) -> Matrix:
        return self._tensors.matrix("embedding", _EMBEDDING)

    def final_norm(self) -> torch.Tensor:
        return self._tensors.single("model.norm.weight")

    def head(self) -> Matrix:
        """The head; with a tied one, the embedding read again."""
        return self._tensors.matrix("head", _EMBEDDING if self._spec.tied_head else "lm_head.weight")

    def layer(self, index: int) -> LayerWeights:
        tensors, spec = self._tensors, self._spec
        prefix = f"model.layers.{index}"
        attention = f"{prefix}.self_attn"
        linears = {
            name: tensors.linear(f"layers.{index}.{name}", prefix, parts)
            for name, parts in linear_modules(spec).items()
        }
        return LayerWeights(
            input_norm_H=tensors.single(f"{prefix}.input_layernorm.weight"),
            query_norm_D=tensors.single(f"{attention}.q_norm.weight") if spec.qk_norm else None,
            key_norm_D=tensors.single(f"{attention}.k_norm.weight") if spec.qk_norm else None,
            mlp_norm_H=tensors.single(f"{prefix}.post_attention_layernorm.weight"),
            **linears,
        )


def expected_shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor a checkpoint of this shape must hold, by its Hugging Face name."""
    hidden = spec.hidden_size
    yield _EMBEDDING, (spec.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not spec.tied_head:
        yield "lm_head.weight", (spec.vocab_size, hidden)
    modules = [module for parts in linear_modules(spec).values() for module in parts]
    for index in range(spec.num_layers):
        prefix = f"model.layers.{index}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        for module in modules:
            yield f"{prefix}.{module.name}.weight", (module.num_out, module.num_in)
            if module.has_bias:
                yield f"{prefix}.{module.name}.bias", (module.num_out,)
        if spec.qk_norm:
            yield f"{prefix}.self_attn.q_norm.weight", (spec.head_dim,)
            yield f"{prefix}.self_attn.k_norm.weight", (spec.head_dim,)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and what its file's header says of it."""

    path: Path
    shape: tuple[int, ...]
    number_type: str


def stored_in(path: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds, from its header alone; a UserError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return {
                name: StoredTensor(path, tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


def read_tensor(name: str, stored: StoredTensor, destination: torch.Tensor) -> None:
    """Copy one tensor into `destination`, converting its number type. The file is mapped only meanwhile."""
    try:
        with safe_open(stored.path, framework="pt") as file:
            destination.copy_(file.get_tensor(name))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(stored.path, error) from error


def check_number_type(name: str, stored: StoredTensor) -> None:
    if stored.number_type not in _READABLE:
        raise UserError(
            f"{stored.path}: {name} is stored as {stored.number_type}; groat reads F32, F16 and BF16. "
            "Use the unquantized model."
        )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a complete safetensors file ({str(error)[:200]}). Get the file again.")


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return stored_in(single)
    if not index.exists():
        raise UserError(
            f"{folder} has neither model.safetensors nor model.safetensors.index.json. groat reads safetensors only "
            "(never pickled .bin files): get or convert the weights."
        )
    weight_map: Any = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(v, str) for v in cast(dict[str, Any], weight_map).values()
    ):
        raise UserError(f"{index} has no weight_map of tensor names to file names. Get the file again.")
    return _sharded(folder, cast(dict[str, str], weight_map), index)


def _sharded(folder: Path, weight_map: dict[str, str], index: Path) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if shard != Path(shard).name or not shard.endswith(".safetensors"):
            raise UserError(f"{index} names the file {shard!r}; shards must be .safetensors files in the same folder.")
        if not (folder / shard).exists():
            raise UserError(f"{folder / shard} is missing, though {index.name} names it. Get the file again.")
        stored.update(stored_in(folder / shard))
    for name, shard in weight_map.items():
        if name not in stored or stored[name].path.name != shard:
            raise UserError(f"{folder / shard} does not hold {name}, though {index.name} says so. Get the files again.")
    return stored


def _check_names_and_shapes(stored: dict[str, StoredTensor], spec: ModelSpec, folder: Path) -> None:
    expected: set[str] = set()
    # Lazily: a damaged config.json may announce a billion layers.
    for name, shape in expected_shapes(spec):
        if name not in stored:
            raise UserError(f"{folder}: the weights have no tensor {name}, which config.json calls for.")
        if stored[name].shape != shape:
            raise UserError(
                f"{stored[name].path}: {name} has shape {list(stored[name].shape)}, but config.json makes it "
                f"{list(shape)}. The two files do not belong together."
            )
        check_number_type(name, stored[name])
        expected.add(name)
    # A tied checkpoint may still hold the head; like transformers, we take the embedding.
    extra = {name for name in stored if not _IGNORED.search(name)} - expected - {"lm_head.weight"}
    if extra:
        name = min(extra)
        raise UserError(
            f"{stored[name].path} holds {len(extra)} tensors groat has no use for, such as {name}; leaving them out "
            "could change what the model computes. Is this an adapter, a quantized or a multimodal model?"
        )


class _Tensors:
    """Reads tensors by name; several parts land in one fused tensor."""

    def __init__(self, stored: dict[str, StoredTensor], store: Store) -> None:
        self._stored = stored
        self._store = store

    def single(self, name: str) -> torch.Tensor:
        return self._fused([name])

    def matrix(self, ours: str, *names: str) -> Matrix:
        return self._store(ours, self._fused(names))

    def linear(self, ours: str, prefix: str, parts: Sequence[Module]) -> Linear:
        names = [f"{prefix}.{part.name}" for part in parts]
        return Linear(
            weight_NK=self.matrix(ours, *(f"{name}.weight" for name in names)),
            bias_N=self._fused([f"{name}.bias" for name in names]) if parts[0].has_bias else None,
        )

    def _fused(self, names: Sequence[str]) -> torch.Tensor:
        parts = [self._stored[name] for name in names]
        num_rows = [part.shape[0] for part in parts]
        fused = torch.empty(sum(num_rows), *parts[0].shape[1:], dtype=torch.float32)
        for name, part, rows in zip(names, parts, fused.split(num_rows), strict=True):
            read_tensor(name, part, rows)
        return fused
