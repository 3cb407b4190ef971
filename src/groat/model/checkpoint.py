"""A model's weights, read a few rows at a time into the fused layout.

Nothing is allocated before every name, shape and number type in the files was compared with the spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from groat.kernels.matrix import Matrix, plain_rows
from groat.kernels.quantized import NotFiniteError, Rows, row_ranges
from groat.model.files import GGUF_LINK
from groat.model.gguf_weights import GgufWeights
from groat.model.modules import Module, linear_modules
from groat.model.safetensors_weights import SafetensorsWeights
from groat.model.spec import ModelSpec
from groat.model.tensor_files import StoredTensor
from groat.model.weights import LayerWeights, Linear, Weights
from groat.types import UserError

Store = Callable[[str, tuple[int, int], Rows], Matrix]
"""How a weight matrix is kept, by its name (`embedding`, `head`, `layers.3.gate_up`), its shape, and its rows, which
come a few at a time."""

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Buffers that old checkpoints carry; recomputed from the config.
_IGNORED = re.compile(r"(^|\.)rotary_emb\.inv_freq$|\.masked_bias$")


def in_fp32(_: str, shape: tuple[int, int], ranges: Rows) -> Matrix:
    return plain_rows(shape, ranges, torch.float32)


class TensorFiles(Protocol):
    """The files of a model; tensors under their Hugging Face names."""

    @property
    def stored(self) -> Mapping[str, StoredTensor]:
        """What the headers say."""
        ...

    def check(self, name: str) -> None:
        """A UserError unless the tensor can be read."""
        ...

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows (of a vector, some numbers) as numbers in fp32 or 16 bits."""
        ...

    def matrix(self, names: Sequence[str]) -> Matrix | None:
        """What the files hold quantized and is kept so, made of these weights; None: made of rows."""
        ...


def weight_files(folder: Path, spec: ModelSpec) -> TensorFiles:
    """Where a folder of `model_folder` has its weights."""
    link = folder / GGUF_LINK
    return GgufWeights(link, spec) if link.exists() else SafetensorsWeights(folder)


def read_weights(folder: Path, spec: ModelSpec, store: Store = in_fp32) -> Weights:
    """All weights, each matrix as `store` keeps it. Holds what is kept and a few rows more."""
    parts = WeightParts(folder, spec, store)
    embedding_VH = parts.embedding()
    return Weights(
        embedding_VH=embedding_VH,
        layers=tuple(parts.layer(index) for index in range(spec.num_layers)),
        final_norm_H=parts.final_norm(),
        head_VH=embedding_VH if spec.tied_head else parts.head(),
    )


class WeightParts:
    """The weights of a model, read part by part in any order; what is read is not kept here."""

    def __init__(self, folder: Path, spec: ModelSpec, store: Store = in_fp32) -> None:
        self._files, self._spec, self._store = weight_files(folder, spec), spec, store
        check_names_and_shapes(self._files, spec)

    def embedding(self) -> Matrix:
        return self._matrix("embedding", [_EMBEDDING])

    def head(self) -> Matrix:
        """The head; with a tied one, the embedding read again."""
        return self._matrix("head", [_EMBEDDING if self._spec.tied_head else _HEAD])

    def final_norm(self) -> torch.Tensor:
        return self._vector("model.norm.weight")

    def layer(self, index: int) -> LayerWeights:
        spec, prefix = self._spec, f"model.layers.{index}"
        linears = {
            name: self._linear(f"layers.{index}.{name}", prefix, parts) for name, parts in linear_modules(spec).items()
        }
        return LayerWeights(
            input_norm_H=self._vector(f"{prefix}.input_layernorm.weight"),
            query_norm_D=self._vector(f"{prefix}.self_attn.q_norm.weight") if spec.qk_norm else None,
            key_norm_D=self._vector(f"{prefix}.self_attn.k_norm.weight") if spec.qk_norm else None,
            mlp_norm_H=self._vector(f"{prefix}.post_attention_layernorm.weight"),
            **linears,
        )

    def _linear(self, ours: str, prefix: str, parts: Sequence[Module]) -> Linear:
        names = [f"{prefix}.{part.name}" for part in parts]
        return Linear(
            weight_NK=self._matrix(ours, [f"{name}.weight" for name in names]),
            bias_N=self._vector(*(f"{name}.bias" for name in names)) if parts[0].has_bias else None,
        )

    def _vector(self, *names: str) -> torch.Tensor:
        return torch.cat([self._files.rows(name, slice(0, self._num_rows(name))).float() for name in names])

    def _matrix(self, ours: str, names: Sequence[str]) -> Matrix:
        """Several parts, one below the other, are one matrix."""
        if (as_it_is := self._files.matrix(names)) is not None:
            return as_it_is
        stored = self._files.stored[names[0]]
        shape = sum(self._num_rows(name) for name in names), stored.shape[1]
        try:
            return self._store(ours, shape, (self._rows(names, rows) for rows in row_ranges(shape)))
        except NotFiniteError:
            raise UserError(
                f"{stored.path}: {names[0]}, or what lies beside it in {ours}, holds infinities or NaN, which have no "
                "place in 8 or 4 bits. Get the file again."
            ) from None

    def _rows(self, names: Sequence[str], rows: slice) -> torch.Tensor:
        pieces: list[torch.Tensor] = []
        first = 0
        for name in names:
            count = self._num_rows(name)
            start, stop = max(rows.start - first, 0), min(rows.stop - first, count)
            if start < stop:
                pieces.append(self._files.rows(name, slice(start, stop)))
            first += count
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _num_rows(self, name: str) -> int:
        return self._files.stored[name].shape[0]


def expected_shapes(spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor a checkpoint of this shape must hold, by its Hugging Face name."""
    hidden = spec.hidden_size
    yield _EMBEDDING, (spec.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    if not spec.tied_head:
        yield _HEAD, (spec.vocab_size, hidden)
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


def check_names_and_shapes(files: TensorFiles, spec: ModelSpec) -> None:
    """The files hold what the spec calls for and nothing else that could change what the model computes."""
    stored = files.stored
    somewhere = next(iter(stored.values())).path.parent if stored else "the file"
    expected: set[str] = set()
    # Lazily: a damaged config.json may announce a billion layers.
    for name, shape in expected_shapes(spec):
        if name not in stored:
            raise UserError(f"{somewhere}: the weights have no tensor {name}, which config.json calls for.")
        if stored[name].shape != shape:
            raise UserError(
                f"{stored[name].path}: {name} has shape {list(stored[name].shape)}, but config.json makes it "
                f"{list(shape)}. The two files do not belong together."
            )
        files.check(name)
        expected.add(name)
    # A tied checkpoint may still hold the head; like transformers, we take the embedding.
    extra = {name for name in stored if not _IGNORED.search(name)} - expected - {_HEAD}
    if extra:
        name = min(extra)
        raise UserError(
            f"{stored[name].path} holds {len(extra)} tensors groat has no use for, such as {name}; leaving them out "
            "could change what the model computes. Is this an adapter, a quantized or a multimodal model?"
        )
