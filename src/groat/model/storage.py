"""In which kind each of a model's frozen matrices is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from groat.types import StorageChoice, StorageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How each weight matrix is stored."""

    layers: StorageKind = "f32"
    embedding: StorageKind = "f32"
    """Embedding and head, tied or not."""
    exceptions: Mapping[str, StorageKind] = field(default_factory=dict[str, StorageKind])
    """Matrices stored otherwise, by names such as `layers.3.gate_up`."""

    calibrated: bool = False
    """NF4 matrices are rounded for the inputs that a calibration has seen: dynamic quantization."""

    @property
    def name(self) -> StorageChoice:
        """As `memory.storage` calls it."""
        return "dynamic" if self.calibrated else self.layers

    def kind_of(self, name: str) -> StorageKind:
        usual = self.embedding if name in ("embedding", "head") else self.layers
        return self.exceptions.get(name, usual)

    @classmethod
    def of(cls, kind: StorageKind) -> Storage:
        """Everything in one kind, but for embedding and head beside NF4: they lose too much in 4 bits."""
        return cls(layers=kind, embedding="int8" if kind == "nf4" else kind)
