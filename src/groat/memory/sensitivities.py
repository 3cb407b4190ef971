"""What storing each matrix of a model in fewer bits does to it: measured once, kept in a file, read without torch."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from groat.caches import cache_folder
from groat.config.tree import MemoryConfig
from groat.memory.sizes import matrices
from groat.model.files import read_json_object
from groat.model.fingerprint import fingerprint
from groat.model.spec import ModelSpec
from groat.types import StorageKind, UserError

MEASURED: tuple[StorageKind, ...] = ("int8", "nf4")
"""The kinds whose damage is measured; bf16 counts as none, being a hundredth of int8's."""
NUM_TOKENS = 1024
"""Of the calibration text that are used; twice as many change little."""
NUM_DIRECTIONS = 4
"""Directions in which a matrix's inputs are described beside their own variances."""
_FORMAT = "groat sensitivities 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One matrix."""

    damages: Mapping[StorageKind, float]
    """KL to the unquantized model in nats per token, were this matrix alone stored so."""
    inputs: str
    """The second moments of its inputs, packed and in base64; empty where they are not known (an embedding's)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivities:
    """One model."""

    model: str
    """Its name, for people."""
    fingerprint: str
    calibration: str
    """A hash of the text it was measured on."""
    matrices: Mapping[str, Sensitivity]
    kinds: Mapping[str, StorageKind] = field(default_factory=dict[str, StorageKind])
    """The kinds chosen by `groat quantize`; empty where nothing was chosen yet."""

    def to_json(self) -> str:
        tree = {
            "format": _FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "calibration": self.calibration,
            "kinds": dict(self.kinds),
            "matrices": {
                name: {"damages": dict(matrix.damages), "inputs": matrix.inputs}
                for name, matrix in self.matrices.items()
            },
        }
        return json.dumps(tree, indent=1) + "\n"


def known_sensitivities(memory: MemoryConfig, spec: ModelSpec, model: Path) -> Sensitivities | None:
    """Those in the user's file, or else in the cache; None where they must be measured first."""
    found = fingerprint(model)
    if memory.sensitivities is not None:
        return read_sensitivities(Path(memory.sensitivities).expanduser(), spec, found)
    path = cached_path(found)
    if not path.is_file():
        return None
    # What is damaged there was nobody's own file: it is measured anew.
    with suppress(UserError):
        return read_sensitivities(path, spec, found)
    return None


def inputs_bytes(num_inputs: int) -> int:
    """Bytes of the packed second moments: a scale per direction, a byte per input, a byte per input and direction."""
    return 4 * NUM_DIRECTIONS + num_inputs + num_inputs * NUM_DIRECTIONS


def cached_path(model_fingerprint: str) -> Path:
    """Where the sensitivities of a model are kept once they were measured."""
    return cache_folder("sensitivities") / f"{model_fingerprint}.json"


def read_sensitivities(path: Path, spec: ModelSpec, model_fingerprint: str) -> Sensitivities:
    """The file's content, each part checked against the model; a UserError names what does not fit."""
    tree = read_json_object(path)
    if tree.get("format") != _FORMAT:
        raise UserError(f"{path} is not a file of sensitivities that this groat reads: make one with groat quantize.")
    if tree.get("fingerprint") != model_fingerprint:
        raise UserError(
            f"{path} was measured on another model ({str(tree.get('model'))[:80]!r}, or on other weights of that "
            "name): measure this one with groat quantize."
        )
    read = _Reader(path, matrices(spec))
    return Sensitivities(
        model=str(tree.get("model")),
        fingerprint=model_fingerprint,
        calibration=str(tree.get("calibration")),
        matrices=read.matrices(tree.get("matrices")),
        kinds=read.kinds(tree.get("kinds")),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    shapes: Mapping[str, tuple[int, int]]

    def matrices(self, value: Any) -> dict[str, Sensitivity]:
        found = self._object(value, "matrices")
        if missing := set(self.shapes) - set(found):
            raise self._damaged(f"it has no matrix {min(missing)}")
        self._check_names(found)
        return {name: self._matrix(name, found[name]) for name in self.shapes}

    def kinds(self, value: Any) -> dict[str, StorageKind]:
        found = self._object(value, "kinds")
        self._check_names(found)
        if found and len(found) < len(self.shapes):
            raise self._damaged(f"kinds names {len(found)} of {len(self.shapes)} matrices")
        if wrong := [kind for kind in found.values() if kind not in get_args(StorageKind)]:
            raise self._damaged(f"kinds holds {str(wrong[0])[:40]!r}")
        return cast(dict[str, StorageKind], found)

    def _matrix(self, name: str, value: Any) -> Sensitivity:
        fields = self._object(value, name)
        damages = self._object(fields.get("damages"), f"damages of {name}")
        numbers = {kind: damages.get(kind) for kind in MEASURED}
        for kind, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
                raise self._damaged(f"the damage of {kind} to {name} is {str(number)[:40]!r}")
        return Sensitivity(damages=cast(dict[StorageKind, float], numbers), inputs=self._inputs(name, fields))

    def _inputs(self, name: str, fields: Mapping[str, Any]) -> str:
        text = fields.get("inputs")
        try:
            raw = base64.b64decode(cast(str, text), validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise self._damaged(f"the inputs of {name} are not base64") from None
        if raw and len(raw) != inputs_bytes(self.shapes[name][1]):
            raise self._damaged(f"the inputs of {name} have {len(raw)} bytes")
        return cast(str, text)

    def _object(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._damaged(f"{what} is no object")
        return cast(dict[str, Any], value)

    def _check_names(self, found: Mapping[str, Any]) -> None:
        if unknown := set(found) - set(self.shapes):
            raise self._damaged(f"the model has no matrix {min(unknown)[:80]!r}")

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}. The file is damaged: make it anew with groat quantize.")
