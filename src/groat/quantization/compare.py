"""How far a model stored in fewer bits is from the unquantized one, on a text; for models of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from groat.kernels.matrix import Matrix, dense_of
from groat.kernels.ops import product
from groat.memory.sizes import HEAD_ROWS
from groat.model.checkpoint import Store, WeightParts
from groat.model.layers import rms_norm
from groat.model.spec import ModelSpec
from groat.quantization.observe import PackedText, forward

_HELD_OUT = Path(__file__).with_name("held_out.txt")


def held_out_text() -> str:
    """A text that nothing is calibrated on."""
    return _HELD_OUT.read_text(encoding="utf-8")


def kl_to_unquantized(
    folder: Path,
    spec: ModelSpec,
    sequences: Sequence[Sequence[int]],
    stores: Mapping[str, Store],
    layer_done: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The mean KL over tokens, in nats, for each way to store the model.

    Holds two heads and a layer at a time. `layer_done` is called (1 + len(stores)) * num_layers times.
    """
    text = PackedText.of(sequences, spec)
    exact = WeightParts(folder, spec)
    exact_TH, exact_head_VH = _read_by_head(exact, spec, text, layer_done), dense_of(exact.head())
    found: dict[str, float] = {}
    for name, store in stores.items():
        parts = WeightParts(folder, spec, store)
        normed_TH = _read_by_head(parts, spec, text, layer_done)
        head_VH = parts.embedding() if spec.tied_head else parts.head()
        found[name] = mean_kl(exact_TH, exact_head_VH, normed_TH, head_VH)
    return found


@torch.no_grad()
def _read_by_head(
    parts: WeightParts, spec: ModelSpec, text: PackedText, layer_done: Callable[[], None]
) -> torch.Tensor:
    return rms_norm(forward(parts, spec, text, layer_done), parts.final_norm(), spec.norm_epsilon)


@torch.no_grad()
def mean_kl(
    exact_TH: torch.Tensor, exact_head_VH: torch.Tensor, other_TH: torch.Tensor, other_head_VH: Matrix
) -> float:
    """Between what two heads make of their final-normed hidden states, over tokens; in nats."""
    total = 0.0
    for rows in torch.arange(len(exact_TH)).split(HEAD_ROWS):
        exact_CV = product(exact_TH[rows], exact_head_VH).log_softmax(-1)
        other_CV = product(other_TH[rows], other_head_VH).log_softmax(-1)
        total += torch.linalg.vecdot(exact_CV.exp(), exact_CV - other_CV).sum().item()
    return max(total, 0.0) / len(exact_TH)
