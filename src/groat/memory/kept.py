"""How a run was begun, read back from its plan: it goes on with the same bytes, cut into the same pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

from pydantic import TypeAdapter, ValidationError

from groat.memory.phases import Way
from groat.memory.sizes import matrices
from groat.model.files import read_json_object
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import StorageKind, UserError


def kept_storage(path: Path, spec: ModelSpec) -> Storage | None:
    """What plan.json says; None where a run has none yet. A UserError if it is damaged or of another model."""
    if not path.is_file():
        return None
    try:
        tree: dict[str, Any] = read_json_object(path)["storage"]
        exceptions: dict[str, StorageKind] = {
            _matrix(name, spec): _kind(kind) for name, kind in dict(tree["exceptions"]).items()
        }
        return Storage(
            layers=_kind(tree["layers"]),
            embedding=_kind(tree["embedding"]),
            exceptions=exceptions,
            calibrated=tree.get("calibrated") is True,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not say how the run's weights are stored ({error}), so it cannot go on as it began: put the "
            "file back, or start the run anew"
        ) from error


def kept_way(path: Path) -> Way | None:
    """How sampler and learner work, as plan.json says; None where a run has none yet. A UserError if it is damaged."""
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Way).validate_python(read_json_object(path)["way"])
    except (KeyError, ValidationError) as error:
        raise UserError(
            f"{path} does not say how the run goes about its work, so it cannot go on as it began: put the file back, "
            "or start the run anew"
        ) from error


def _kind(value: Any) -> StorageKind:
    if value not in get_args(StorageKind):
        raise ValueError(f"{str(value)[:40]!r} is no storage kind")
    return cast(StorageKind, value)


def _matrix(name: Any, spec: ModelSpec) -> str:
    if name not in matrices(spec):
        raise ValueError(f"the model has no matrix {str(name)[:80]!r}")
    return name
