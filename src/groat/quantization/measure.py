"""Which matrices of a model suffer most from fewer bits, measured on a small text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from groat.kernels.calibrated import to_calibrated_nf4
from groat.kernels.matrix import Matrix, rows_of, stored
from groat.kernels.ops import product
from groat.memory.sensitivities import MEASURED, NUM_TOKENS, Sensitivities, Sensitivity, cached_path
from groat.model.checkpoint import WeightParts
from groat.model.files import read_text, replace_file
from groat.model.fingerprint import fingerprint
from groat.model.spec import ModelSpec
from groat.model.tokenizer import Tokenizer
from groat.quantization.compare import mean_kl
from groat.quantization.moments import find_moments, pack_moments, unpack_moments
from groat.quantization.observe import Observed, ObservedEmbedding, ObservedHead, ObservedLinear, observe
from groat.types import StorageKind, UserError

SEQUENCE_TOKENS = 256
_FEWEST_TOKENS = 64
_LARGEST_TEXT = 64 * 2**20
_CALIBRATION = Path(__file__).with_name("calibration.txt")


def calibration_text(path: Path | None) -> str:
    """A user's file, or the text in the package: prose, sums, chat and code."""
    return read_text(path or _CALIBRATION, _LARGEST_TEXT)


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure_and_keep(
    folder: Path,
    spec: ModelSpec,
    *,
    model: str,
    text: str | None = None,
    done: Callable[[], None] = lambda: None,
) -> Sensitivities:
    """Measure the model in a folder, on the text of the package if there is no other, and leave it in the cache."""
    sensitivities = measure(
        WeightParts(folder, spec),
        spec,
        Tokenizer.from_folder(folder, model_name=model),
        calibration_text(None) if text is None else text,
        model=model,
        model_fingerprint=fingerprint(folder),
        done=done,
    )
    keep(sensitivities, cached_path(sensitivities.fingerprint))
    return sensitivities


def keep(sensitivities: Sensitivities, path: Path) -> None:
    """Write the file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda place: place.write_bytes(sensitivities.to_json().encode()))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def measure(
    parts: WeightParts,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    text: str,
    *,
    model: str,
    model_fingerprint: str,
    done: Callable[[], None] = lambda: None,
) -> Sensitivities:
    """The damage of every kind to every matrix, one at a time; `done` is called 5 * num_layers times."""
    generator = torch.Generator().manual_seed(0)
    sequences = _sequences(tokenizer.encode(text), spec)
    found: dict[str, Sensitivity] = {}
    for observed in observe(parts, spec, sequences, generator, done):
        name, sensitivity = _sensitivity(observed, generator)
        found[name] = sensitivity
    if spec.tied_head:
        found["embedding"] = _together(found.pop("head"), found["embedding"])
    return Sensitivities(model=model, fingerprint=model_fingerprint, calibration=text_hash(text), matrices=found)


def _sequences(token_ids: Sequence[int], spec: ModelSpec) -> list[Sequence[int]]:
    """Runs of tokens spread over the whole text."""
    length = min(SEQUENCE_TOKENS, spec.max_context)
    if len(token_ids) < min(_FEWEST_TOKENS, length):
        raise UserError(
            f"the calibration text has {len(token_ids)} tokens: at least {_FEWEST_TOKENS} are needed, {NUM_TOKENS} "
            "are used"
        )
    starts = list(range(0, max(len(token_ids) - length, 0) + 1, length)) or [0]
    wanted = max(1, NUM_TOKENS // length)
    kept = [starts[number * len(starts) // wanted] for number in range(wanted)] if len(starts) > wanted else starts
    return [token_ids[start : start + length] for start in kept]


@torch.no_grad()
def _sensitivity(observed: Observed, generator: torch.Generator) -> tuple[str, Sensitivity]:
    match observed:
        case ObservedHead():
            return "head", _head(observed, generator)
        case ObservedLinear():
            return observed.name, _linear(observed, generator)
        case ObservedEmbedding():
            return "embedding", _embedding(observed)


def _linear(observed: ObservedLinear, generator: torch.Generator) -> Sensitivity:
    # A token whose outputs matter more counts for more.
    weights_T = observed.grad_TN.square().mean(1)
    weights_T = (weights_T / weights_T.mean().clamp(min=1e-30)).sqrt_()
    packed = pack_moments(find_moments(observed.input_TK * weights_T[:, None], generator))

    exact_TN = product(observed.input_TK, observed.weight_NK)

    def damage(matrix: Matrix) -> float:
        change_TN = product(observed.input_TK, matrix).sub_(exact_TN)
        return torch.linalg.vecdot(change_TN, observed.grad_TN).square_().mean().item() / 2

    return _with_kinds(observed.weight_NK, packed, damage)


def _head(observed: ObservedHead, generator: torch.Generator) -> Sensitivity:
    packed = pack_moments(find_moments(observed.input_TH, generator))

    def damage(matrix: Matrix) -> float:
        return mean_kl(observed.input_TH, observed.weight_VH, observed.input_TH, matrix)

    return _with_kinds(observed.weight_VH, packed, damage)


def _embedding(observed: ObservedEmbedding) -> Sensitivity:
    def damage(matrix: Matrix) -> float:
        change_TH = rows_of(matrix, observed.token_ids_T) - observed.weight_VH[observed.token_ids_T]
        return torch.linalg.vecdot(change_TH, observed.grad_TH).square_().mean().item() / 2

    return _with_kinds(observed.weight_VH, "", damage)


def _with_kinds(weight_NK: torch.Tensor, packed: str, damage: Callable[[Matrix], float]) -> Sensitivity:
    damages: dict[StorageKind, float] = {}
    for kind in MEASURED:
        is_nf4 = kind == "nf4"
        matrix = to_calibrated_nf4(weight_NK, unpack_moments(packed, weight_NK.shape[1])) if is_nf4 else None
        damages[kind] = damage(matrix or stored(weight_NK, kind))
    return Sensitivity(damages=damages, inputs=packed)


def _together(head: Sensitivity, embedding: Sensitivity) -> Sensitivity:
    """Of a matrix that is both: the damages add up, and what is known of its inputs is the head's."""
    return Sensitivity(
        damages={kind: head.damages[kind] + embedding.damages[kind] for kind in MEASURED}, inputs=head.inputs
    )
