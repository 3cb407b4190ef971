"""Weights out of safetensors files: plain ones a few rows at a time, those that bitsandbytes quantized as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from groat.kernels.codes import dynamic_code, nf4_code
from groat.kernels.int8 import RowInt8Matrix
from groat.kernels.matrix import Matrix
from groat.kernels.nf4 import BlockScales, DoubleScales, NF4Matrix, PlainScales
from groat.model.prequantized import Quantized, StoredInt8, StoredNF4, has_double_scales, kind_of_parts, split_quantized
from groat.model.tensor_files import StoredTensor, stored_tensors
from groat.types import UserError

_NUMBER_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LARGEST_INT8 = 127


class SafetensorsWeights:
    """A folder's weights in one file, or in shards."""

    def __init__(self, folder: Path) -> None:
        self.stored, self._quantized = split_quantized(stored_tensors(folder))
        self._last: tuple[str, Matrix] | None = None

    def check(self, name: str) -> None:
        """A UserError unless the tensor can be read."""
        if name not in self._quantized:
            check_number_type(name, self.stored[name])

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows as numbers."""
        if name not in self._quantized:
            return read_rows(self.stored[name], rows)
        # Beside parts in 16 bits; the next rows asked for are most often of the same part.
        if self._last is None or self._last[0] != name:
            self._last = name, self._joined([name])
        matrix = self._last[1]
        assert not isinstance(matrix, torch.Tensor)
        return matrix.rows(torch.arange(rows.start, rows.stop))

    def matrix(self, names: Sequence[str]) -> Matrix | None:
        """The quantized matrix made of these weights, the numbers exactly those of the file; None if it must be made
        of rows."""
        weights, parts = [self.stored[name] for name in names], [self._quantized.get(name) for name in names]
        return self._joined(names) if kind_of_parts(weights, parts) in ("nf4", "int8") else None

    def _joined(self, names: Sequence[str]) -> Matrix:
        parts = [self._quantized[name] for name in names]
        if isinstance(parts[0], StoredInt8):
            return _joined_int8(parts)
        for name, part in zip(names, parts, strict=True):
            _check_maps(name, part)
        return _joined_nf4(parts)


def read_rows(stored: StoredTensor, rows: slice) -> torch.Tensor:
    """Some rows of a plain tensor, in the file's number type."""
    bytes_ = stored.read(rows.start * stored.row_bytes, rows.stop * stored.row_bytes)
    return torch.from_numpy(bytes_).view(_NUMBER_TYPES[stored.number_type]).view(-1, *stored.shape[1:])


def read_tensor(stored: StoredTensor) -> torch.Tensor:
    """A whole plain tensor in fp32."""
    return read_rows(stored, slice(0, stored.shape[0])).float()


def check_number_type(name: str, stored: StoredTensor) -> None:
    if stored.number_type not in _NUMBER_TYPES:
        raise UserError(
            f"{stored.path}: {name} is stored as {stored.number_type}; groat reads F32, F16 and BF16. "
            "Use the unquantized model."
        )


def _joined_nf4(parts: Sequence[Quantized]) -> NF4Matrix:
    """Bytes one behind the other: every part but the last is whole blocks."""
    sources = [part for part in parts if isinstance(part, StoredNF4)]
    packed = torch.empty(sum(part.codes.num_bytes for part in sources), dtype=torch.uint8)
    for place, part in zip(packed.split([part.codes.num_bytes for part in sources]), sources, strict=True):
        part.codes.read_into(place.numpy())
    joined: BlockScales
    if has_double_scales(sources):
        doubles = [_double_scales(part) for part in sources]
        joined = DoubleScales(
            codes=torch.cat([scales.codes for scales in doubles]),
            scales=torch.cat([scales.scales for scales in doubles]),
            offsets=torch.cat([scales.offsets for scales in doubles]),
        )
    else:
        joined = PlainScales(torch.cat([_plain_scales(part) for part in sources]))
    rows = sum(part.shape[0] for part in sources)
    return NF4Matrix(num_rows=rows, num_columns=sources[0].shape[1], packed=packed, scales=joined)


def _double_scales(part: StoredNF4) -> DoubleScales:
    assert part.outer_scales is not None
    scales = _floats(part.outer_scales)
    return DoubleScales(_bytes(part.scales), scales, torch.full_like(scales, part.offset))


def _plain_scales(part: StoredNF4) -> torch.Tensor:
    if part.outer_scales is None:
        return _floats(part.scales)
    scales = _double_scales(part)
    return scales.of(torch.arange(len(scales.codes)))


def _check_maps(name: str, part: Quantized) -> None:
    assert isinstance(part, StoredNF4)
    for stored, ours in zip(part.maps, (nf4_code(), dynamic_code()), strict=False):
        if not torch.allclose(_floats(stored), ours, rtol=0, atol=1e-7):
            raise UserError(
                f"{stored.path}: the values that the codes of {name} stand for are not those of bitsandbytes' nf4. Use "
                "the unquantized model."
            )


def _joined_int8(parts: Sequence[Quantized]) -> RowInt8Matrix:
    sources = [part for part in parts if isinstance(part, StoredInt8)]
    values_NK = torch.empty(sum(part.shape[0] for part in sources), sources[0].shape[1], dtype=torch.int8)
    for place, part in zip(values_NK.split([part.shape[0] for part in sources]), sources, strict=True):
        part.values.read_into(place.flatten().view(torch.uint8).numpy())
    return RowInt8Matrix(values_NK, torch.cat([_floats(part.scales) for part in sources]).div_(_LARGEST_INT8))


def _bytes(stored: StoredTensor) -> torch.Tensor:
    return torch.from_numpy(stored.read())


def _floats(stored: StoredTensor) -> torch.Tensor:
    return torch.from_numpy(stored.read()).view(torch.float32)
