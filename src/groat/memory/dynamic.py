"""Dynamic quantization in the plan: a storage kind per matrix, for the bytes that there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from groat.memory.allocate import Choice, allocate
from groat.memory.phases import Way
from groat.memory.sensitivities import MEASURED, NUM_TOKENS, Sensitivities
from groat.memory.sizes import matrices, matrix_bytes, measuring_bytes, weight_bytes
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import StorageKind

USUAL_SHARE = 1.1
"""Of plain NF4's bytes: what dynamic quantization takes where no budget says otherwise."""
_GUESS: Mapping[StorageKind, float] = {"int8": 0.01, "nf4": 1.0}
"""Damage per weight, before anything was measured."""

_OPERATIONS_PER_SECOND = 3e10
"""Of a measurement, per core; on a Zen 4 server with other work beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicKinds:
    """The kinds that each matrix may have, and what they cost."""

    spec: ModelSpec
    sensitivities: Sensitivities | None
    """None before they were measured: the bytes can be planned then, the kinds are a guess."""

    @property
    def smallest(self) -> Storage:
        """All in NF4, embedding and head too."""
        return dynamic_storage({})

    @property
    def shares(self) -> tuple[int, ...]:
        """Bytes that are worth having, from more to fewer: the usual ones, plain NF4's, the smallest."""
        plain = weight_bytes(self.spec, Storage.of("nf4"))
        return int(USUAL_SHARE * plain), plain, weight_bytes(self.spec, self.smallest)

    @property
    def measuring_bytes(self) -> int:
        """What a measurement holds that must come first; 0 where it is known already."""
        return measuring_bytes(self.spec, NUM_TOKENS) if self.sensitivities is None else 0

    def storage(self, num_bytes: int | None = None) -> Storage | None:
        """The least damaging storage in at most `num_bytes`, None below the smallest.

        Without a number of bytes: what `groat quantize` chose, or else the usual ones.
        """
        if num_bytes is None and self.sensitivities is not None and self.sensitivities.kinds:
            return dynamic_storage(self.sensitivities.kinds)
        num_bytes = self.shares[0] if num_bytes is None else num_bytes
        kinds = allocate({name: self._choices(name, shape) for name, shape in matrices(self.spec).items()}, num_bytes)
        return None if kinds is None else dynamic_storage(kinds)

    def _choices(self, name: str, shape: tuple[int, int]) -> list[Choice]:
        damages = {kind: guess * shape[0] * shape[1] for kind, guess in _GUESS.items()}
        if self.sensitivities is not None:
            damages = self.sensitivities.matrices[name].damages
        quantized = [Choice(kind, matrix_bytes(*shape, kind), damages[kind]) for kind in MEASURED]
        return [*quantized, Choice("bf16", matrix_bytes(*shape, "bf16"), 0.0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known before a run is planned."""

    sensitivities: Sensitivities | None = None
    """None: dynamic storage must be measured first; the plan counts that, and its kinds are a guess."""
    kept: Storage | None = None
    """The storage that the run was begun with."""
    way: Way | None = None
    """How the run that is gone on with does its work: not decided again, even if it is a little too much by now."""
    found: Storage | None = None
    """How the checkpoint holds its weights, if some are quantized already."""


def dynamic_storage(kinds: Mapping[str, StorageKind]) -> Storage:
    """NF4, rounded for the inputs, but for the matrices that have another kind."""
    return Storage(
        layers="nf4",
        embedding="nf4",
        exceptions={name: kind for name, kind in kinds.items() if kind != "nf4"},
        calibrated=True,
    )


def predicted_damage(sensitivities: Sensitivities, storage: Storage) -> float:
    """The sum over matrices, in nats per token."""
    kinds = {name: storage.kind_of(name) for name in sensitivities.matrices}
    return sum(sensitivities.matrices[name].damages[kind] for name, kind in kinds.items() if kind in MEASURED)


def measuring_seconds(spec: ModelSpec) -> float:
    """About how long a measurement takes on this machine: six products with every matrix."""
    weights = sum(rows * columns for rows, columns in matrices(spec).values())
    return 6 * 2 * weights * NUM_TOKENS / (_OPERATIONS_PER_SECOND * (os.cpu_count() or 1))
