"""Weights out of a GGUF file, dequantized a few rows at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from groat.kernels.matrix import Matrix
from groat.model.gguf_names import check_can_dequantize, named_tensors
from groat.model.gguf_reader import open_gguf
from groat.model.spec import ModelSpec
from groat.model.tensor_files import StoredTensor

_PERMUTED = re.compile(r"\.self_attn\.[qk]_proj\.")
_NUMBER_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class GgufWeights:
    """A GGUF file's tensors under their Hugging Face names, in the order of Hugging Face's rows."""

    def __init__(self, path: Path, spec: ModelSpec) -> None:
        with open_gguf(path) as gguf:
            self.stored = named_tensors(gguf)
            # llama.cpp permutes queries and keys of the llama architecture only.
            self._is_permuted = gguf.metadata.get("general.architecture") == "llama"
        self._head_dim = spec.head_dim

    def check(self, name: str) -> None:
        """A UserError unless the tensor can be read."""
        check_can_dequantize(name, self.stored[name])

    def matrix(self, names: Sequence[str]) -> Matrix | None:  # noqa: ARG002
        """Every matrix is made of rows."""
        return None

    def rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows as numbers. Those of queries and keys are read by whole heads, for they are mixed within a head."""
        stored = self.stored[name]
        step = self._head_dim if self._is_permuted and _PERMUTED.search(name) else 1
        first, end = rows.start // step * step, -(-rows.stop // step) * step
        bytes_ = stored.read(first * stored.row_bytes, end * stored.row_bytes).reshape(end - first, stored.row_bytes)
        if step > 1:
            bytes_ = bytes_[half_order(end - first, step)]
        return _numbers(bytes_[rows.start - first : rows.stop - first], stored).view(-1, *stored.shape[1:])


def half_order(num_rows: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Where each row of the Hugging Face layout (first halves, then second halves) lies among the interleaved ones."""
    return np.arange(num_rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).ravel()


def _numbers(bytes_: npt.NDArray[np.uint8], stored: StoredTensor) -> torch.Tensor:
    bytes_ = np.ascontiguousarray(bytes_)
    if stored.number_type in _NUMBER_TYPES:
        return torch.from_numpy(bytes_).view(_NUMBER_TYPES[stored.number_type])
    return torch.from_numpy(dequantize(bytes_, GGMLQuantizationType[stored.number_type]))
