"""Which tensors lie where in a model's safetensors files, from the headers alone, and their bytes; needs no torch.

Bytes are read rather than mapped: pages of a mapped file count as held by the process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from groat.model.files import read_json_object
from groat.types import UserError


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and what its file's header says of it."""

    path: Path
    shape: tuple[int, ...]
    number_type: str
    offset: int
    num_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.num_bytes // self.shape[0] if self.shape and self.shape[0] else self.num_bytes

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """A range of the tensor's bytes; a UserError if the file has fewer by now."""
        bytes_ = np.empty((self.num_bytes if stop is None else stop) - start, dtype=np.uint8)
        self.read_into(bytes_, start)
        return bytes_

    def read_into(self, bytes_: npt.NDArray[np.uint8], start: int = 0) -> None:
        """Fill `bytes_` from a place in the tensor."""
        wanted = len(bytes_)
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + start)
                view, done = bytes_.data, 0
                while done < wanted and (count := file.readinto(view[done:])):
                    done += count
        except OSError as error:
            raise damaged(self.path, error) from error
        if done < wanted:
            raise damaged(self.path, EOFError(f"it ends {wanted - done} bytes early"))


def stored_in(path: Path) -> dict[str, StoredTensor]:
    """What a safetensors file holds, from its header alone; a UserError if it is damaged."""
    try:
        with safe_open(path, framework="np"):  # checks the header against the file
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        return {name: _placed(path, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"}
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _placed(path: Path, data_start: int, entry: dict[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(path, tuple(entry["shape"]), str(entry["dtype"]), data_start + start, end - start)


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not a complete {path.suffix[1:]} file ({str(error)[:200]}). Get the file again.")


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint, in one file or in shards."""
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
