"""The header of a GGUF file: metadata and where the tensors lie.

Our own reader rather than gguf.GGUFReader, which believes every count in the file (a damaged one can keep it busy for
ever) and takes seconds for a large vocabulary. Here no count is believed before the file is known to be long enough.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from groat.types import UserError

_MOST_ARRAY_ITEMS = 2**22
"""In all arrays of a file together; a vocabulary of 256k tokens with its merges has about 1.3 million."""
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""struct formats by the type numbers of the GGUF specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor's place in the file. `shape` is outermost first, as in numpy (GGUF stores it innermost first)."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """An open GGUF file; closed when the `with open_gguf(...)` block ends."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    _bytes: mmap.mmap

    def rows(self, name: str) -> npt.NDArray[np.uint8]:
        """A copy of the tensor's stored bytes, one row per output feature."""
        tensor = self.tensors[name]
        stored = self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]
        num_rows = math.prod(tensor.shape[:-1])
        return np.frombuffer(stored, dtype=np.uint8).reshape(num_rows, tensor.num_bytes // num_rows)


@contextmanager
def open_gguf(path: Path) -> Generator[GgufFile]:
    """Read the header and map the file; a UserError if it is damaged or not a GGUF file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                metadata, tensors = _Header(mapped).read()
            except (_DamagedError, UnicodeDecodeError, OverflowError, ValueError) as error:
                raise UserError(f"{path} is not a complete GGUF file ({error}). Get the file again.") from error
            yield GgufFile(path=path, metadata=metadata, tensors=tensors, _bytes=mapped)
    except ValueError as error:  # mmap of an empty file
        raise UserError(f"{path} is not a GGUF file ({error}). Get the file again.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the file.") from error


class _DamagedError(Exception):
    """Something in the header cannot be true."""


class _Header:
    """A cursor over the header. Every read is checked against the end of the file."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self._size = len(mapped)
        self._position = 0
        self._num_array_items = 0

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self._take(4) != b"GGUF":
            raise _DamagedError("it does not begin with GGUF")
        version: int = self._scalar("I")
        if version not in (2, 3):
            raise _DamagedError(f"version {version} where 2 or 3 is expected")
        num_tensors, num_entries = self._count(24), self._count(12)
        metadata = dict(self._entry() for _ in range(num_entries))
        described = [self._tensor() for _ in range(num_tensors)]
        alignment: Any = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise _DamagedError(f"general.alignment is {alignment!r}")
        data_start = -(-self._position // alignment) * alignment
        tensors = {name: self._placed(name, data_start, kind, shape, at) for name, kind, shape, at in described}
        if len(tensors) != num_tensors or len(metadata) != num_entries:
            raise _DamagedError("a name occurs twice")
        return metadata, tensors

    def _entry(self) -> tuple[str, Any]:
        return self._string(), self._value(self._scalar("I"))

    def _value(self, type_number: int) -> Any:
        if type_number == _STRING:
            return self._string()
        if type_number == _ARRAY:
            return self._array()
        return self._scalar(self._format(type_number))

    def _array(self) -> list[Any]:
        type_number: int = self._scalar("I")
        if type_number == _STRING:
            return [self._string() for _ in range(self._array_length(8))]
        item_format = self._format(type_number)
        length = self._array_length(struct.calcsize(item_format))
        return list(struct.unpack(f"<{length}{item_format}", self._take(length * struct.calcsize(item_format))))

    def _array_length(self, least_item_bytes: int) -> int:
        length = self._count(least_item_bytes)
        self._num_array_items += length
        if self._num_array_items > _MOST_ARRAY_ITEMS:
            raise _DamagedError(f"its arrays have more than {_MOST_ARRAY_ITEMS} items")
        return length

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._string()
        num_dimensions: int = self._scalar("I")
        if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
            raise _DamagedError(f"{name} has {num_dimensions} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(num_dimensions))[::-1]
        return name, self._scalar("I"), shape, self._scalar("Q")

    def _placed(self, name: str, data_start: int, kind_number: int, shape: tuple[int, ...], offset: int) -> GgufTensor:
        kind = GGMLQuantizationType(kind_number)
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block_size or 0 in shape:
            raise _DamagedError(f"{name} has the shape {list(shape)} in blocks of {block_size}")
        num_bytes = math.prod(shape) // block_size * block_bytes
        if data_start + offset + num_bytes > self._size:
            raise _DamagedError(f"{name} would end at byte {data_start + offset + num_bytes} of {self._size}")
        return GgufTensor(kind=kind, shape=shape, offset=data_start + offset, num_bytes=num_bytes)

    def _string(self) -> str:
        return self._take(self._count(1)).decode("utf-8")

    def _count(self, least_item_bytes: int) -> int:
        """A count of things that follow; each takes at least so many bytes of what is left of the file."""
        count: int = self._scalar("Q")
        if count * least_item_bytes > self._size - self._position:
            raise _DamagedError(f"{count} items announced with {self._size - self._position} bytes left")
        return count

    def _scalar(self, item_format: str) -> Any:
        return struct.unpack(f"<{item_format}", self._take(struct.calcsize(item_format)))[0]

    def _format(self, type_number: int) -> str:
        if type_number not in _SCALARS:
            raise _DamagedError(f"value type {type_number} is unknown")
        return _SCALARS[type_number]

    def _take(self, num_bytes: int) -> bytes:
        end = self._position + num_bytes
        if end > self._size:
            raise _DamagedError(f"it ends at byte {self._size}, in the middle of its header")
        taken = self._mapped[self._position : end]
        self._position = end
        return taken
