"""How the matrices of a model are kept as dynamic quantization has chosen."""

from __future__ import annotations

import torch

from groat.kernels.calibrated import to_calibrated_nf4
from groat.kernels.huge_pages import Shelf
from groat.kernels.matrix import Matrix, plain_rows, stored_rows
from groat.kernels.quantized import Rows
from groat.memory.sensitivities import Sensitivities
from groat.model.checkpoint import Store
from groat.model.storage import Storage
from groat.quantization.moments import unpack_moments


def dynamic_store(storage: Storage, sensitivities: Sensitivities) -> Store:
    """Each matrix in its kind, NF4 rounded for its inputs. The same weights always become the same bytes."""
    shelf = Shelf()

    def store(name: str, shape: tuple[int, int], ranges: Rows) -> Matrix:
        kind = storage.kind_of(name)
        if kind != "nf4":
            return stored_rows(shape, ranges, kind, shelf.empty)
        moments = unpack_moments(sensitivities.matrices[name].inputs, shape[1])
        return to_calibrated_nf4(plain_rows(shape, ranges, torch.float32), moments)

    return store
