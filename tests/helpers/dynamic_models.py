"""Models to quantize, and caches of a test's own that share the compiled kernels."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from groat.caches import cache_folder
from groat.memory.sensitivities import Sensitivities
from groat.model.checkpoint import WeightParts
from groat.model.fingerprint import fingerprint
from groat.model.locate import read_spec
from groat.model.spec import ModelSpec
from groat.model.tokenizer import Tokenizer
from groat.quantization.measure import calibration_text, measure
from groat.testing import tiny_model


def empty_cache(folder: Path) -> Path:
    """For XDG_CACHE_HOME: nothing in it but the kernels that were compiled before."""
    kernels = cache_folder("kernels")
    (folder / "groat").mkdir(parents=True)
    if kernels.is_dir():
        (folder / "groat" / "kernels").symlink_to(kernels)
    return folder


def sharp_tiny_model(folder: Path, *, tied: bool = False) -> tuple[Path, ModelSpec]:
    """A tiny model whose logits spread enough that rounding its weights shows; 32 and 64 wide."""
    tiny_model(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 3
    if tied:
        tensors["model.embed_tokens.weight"] = tensors.pop("lm_head.weight")
        config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
        (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder, read_spec(folder)


def measured(folder: Path, spec: ModelSpec) -> Sensitivities:
    return measure(
        WeightParts(folder, spec),
        spec,
        Tokenizer.from_folder(folder),
        calibration_text(None),
        model="tiny",
        model_fingerprint=fingerprint(folder),
    )
