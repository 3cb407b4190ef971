"""A model's name becomes a model: its shape, its weights and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from groat.config.tree import ModelConfig
from groat.kernels.huge_pages import Shelf
from groat.kernels.matrix import stored_rows
from groat.kernels.native import choose_kernels, has_int8_kernels, kernels_in_use
from groat.model.checkpoint import Store, read_weights
from groat.model.locate import model_folder, read_spec, storage_of_checkpoint
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.model.tokenizer import Tokenizer, read_tokenizer
from groat.model.weights import Weights
from groat.types import Compute, KVStorage, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A frozen base model, ready to sample and to learn on."""

    name: str
    spec: ModelSpec
    weights: Weights
    tokenizer: Tokenizer
    compute: Compute = "f32"
    """Of products with quantized weights."""

    @property
    def kv_storage(self) -> KVStorage:
        """How keys and values are kept."""
        return self.weights.kv_storage


def load_model(
    config: ModelConfig,
    storage: Storage | None = None,
    folder: Path | None = None,
    tokenizer: Tokenizer | None = None,
    store: Store | None = None,
) -> LoadedModel:
    """Weights stored as `storage` says, in fp32 without it, and quantized ones as the checkpoint has them.

    They are read a few rows at a time: beside what is kept, about 20 MiB exist.

    `folder` is where `model_folder` has found the files, and `tokenizer` what was read there, if that was done already.
    `store` keeps each matrix where `storage` does not say enough for it.

    A UserError says what is wrong with the files, or where a name was looked for.
    """
    folder = model_folder(config.name) if folder is None else folder
    spec = read_spec(folder)
    tokenizer = read_tokenizer(config, folder) if tokenizer is None else tokenizer
    if tokenizer.vocab_size > spec.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {spec.vocab_size} embeddings. "
            "The files do not belong together."
        )
    choose_kernels(config.kernels)
    kinds = (storage or Storage()).keeping(storage_of_checkpoint(folder))
    compute = _compute(config.compute, kinds)
    shelf = Shelf()
    store = store or (lambda name, shape, ranges: stored_rows(shape, ranges, kinds.kind_of(name), shelf.empty))
    weights = replace(
        read_weights(folder, spec, store).computed_in(compute), kv_storage=kinds.kv_storage(config.kv_cache)
    )
    return LoadedModel(name=config.name, spec=spec, weights=weights, tokenizer=tokenizer, compute=compute)


def _compute(asked: Literal["auto", "f32", "int8"], storage: Storage) -> Compute:
    if asked == "int8":
        _check_int8(storage)
        return "int8"
    by_rows = storage.given and storage.layers == "int8"
    can_be = storage.layers in ("int8", "nf4") and not by_rows and has_int8_kernels()
    return "int8" if asked == "auto" and can_be else "f32"


def _check_int8(storage: Storage) -> None:
    if storage.given and storage.layers == "int8":
        raise UserError(
            "model.compute is int8, but the checkpoint is quantized by LLM.int8, whose weights are computed with in "
            "f32: use the unquantized model with memory.storage int8, or leave model.compute out"
        )
    if storage.layers in ("f32", "bf16"):
        raise UserError(
            f"model.compute is int8, but the weights are stored in {storage.layers}, whose products are computed in "
            "f32: set memory.storage int8, or leave model.compute out"
        )
    if not has_int8_kernels():
        raise UserError(
            "model.compute is int8, but it needs groat's own kernels on an x86 CPU with AVX512-VNNI, or with AVX2 and "
            f"without AVX-512; the kernels in use are {kernels_in_use()}. groat doctor shows what the CPU has; leave "
            "model.compute out for f32"
        )
