"""In which kind each of a model's frozen matrices is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from groat.types import KVStorage, StorageChoice, StorageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How each weight matrix is stored."""

    layers: StorageKind = "f32"
    embedding: StorageKind = "f32"
    """Embedding and head, tied or not."""
    exceptions: Mapping[str, StorageKind] = field(default_factory=dict[str, StorageKind])
    """Matrices stored otherwise, by names such as `layers.3.gate_up`."""
    plain_scales: tuple[str, ...] = ()
    """Matrices with fp32 scales: NF4 of a checkpoint without double quantization, int8 of LLM.int8."""
    given: bool = False
    """The layers are kept as the checkpoint holds them, quantized already."""
    calibrated: bool = False
    """NF4 matrices are rounded for the inputs that a calibration has seen: dynamic quantization."""

    @property
    def name(self) -> StorageChoice:
        """As `memory.storage` calls it."""
        return "dynamic" if self.calibrated else self.layers

    def kind_of(self, name: str) -> StorageKind:
        usual = self.embedding if name in ("embedding", "head") else self.layers
        return self.exceptions.get(name, usual)

    def kv_storage(self, asked: Literal["auto"] | KVStorage) -> KVStorage:
        """How keys and values are kept beside these weights: `auto` rounds them where weights are rounded."""
        if asked != "auto":
            return asked
        return "int8" if self.layers in ("int8", "nf4") else "f32"

    def keeping(self, found: Storage | None) -> Storage:
        """The same with what a checkpoint holds quantized left as it is; `found` is `storage_of_checkpoint`'s."""
        return self if found is None else replace(found, embedding=self.embedding)

    @classmethod
    def of(cls, kind: StorageKind) -> Storage:
        """Everything in one kind, but for embedding and head beside NF4: they lose too much in 4 bits."""
        return cls(layers=kind, embedding="int8" if kind == "nf4" else kind)
