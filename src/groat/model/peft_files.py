"""An adapter as PEFT's two files, adapter_model.safetensors and adapter_config.json, and back, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from groat.config.tree import LoraConfig
from groat.model.files import read_json_object, replace_file, write_json
from groat.model.lora import Adapter, LayerAdapter, LoraPair
from groat.model.modules import Module, linear_modules, target_modules
from groat.model.safetensors_weights import check_number_type, read_tensor
from groat.model.spec import ModelSpec
from groat.model.tensor_files import StoredTensor, stored_in
from groat.types import UserError

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model.model.layers"
_VERSION_KEY = "groat_version"

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_rslora": (None, False),
    "use_dora": (None, False),
    "lora_bias": (None, False),
    "use_qalora": (None, False),
    "fan_in_fan_out": (None, False),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "modules_to_save": (None, []),
    "target_parameters": (None, []),
    "layers_to_transform": (None, []),
    "exclude_modules": (None, [], ""),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    # Other ways to start (pissa, olora, loftq) change the base weights, which the adapter then needs.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
"""Values of adapter_config.json that mean plain LoRA; any other changes what is computed."""


def save_peft(adapter: Adapter, spec: ModelSpec, base_name: str, folder: Path) -> None:
    """Write both files, each in one step. A crash leaves the old or the new weights whole."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = _peft_config(adapter.config, base_name, target_modules(spec))
        if (folder / CONFIG_FILE).exists() and not _same_lora(folder / CONFIG_FILE, config):
            # Never the new weights under the old scale.
            (folder / CONFIG_FILE).unlink()
        tensors = _peft_tensors(adapter, spec)
        metadata = {"format": "pt", _VERSION_KEY: str(adapter.version)}
        replace_file(folder / WEIGHTS_FILE, lambda path: _write_weights(tensors, metadata, path))
        replace_file(folder / CONFIG_FILE, lambda path: write_json(path, config))
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the adapter could not be written to {folder}: {error}. Make room, or check rights."
        ) from error
    assert len(adapter.layers) == spec.num_layers


def load_peft(folder: Path, spec: ModelSpec) -> Adapter:
    """The adapter, ready to train; a UserError for a damaged file and for anything but plain LoRA on every layer."""
    config = _lora_config(folder, target_modules(spec))
    path = folder / WEIGHTS_FILE
    if not path.exists():
        raise UserError(f"{folder} has no {WEIGHTS_FILE} (pickled .bin files are never read). Is this an adapter?")
    stored = stored_in(path)
    _check_names_and_shapes(path, stored, spec, config.r)
    layers = tuple(_layer_adapter(stored, spec, index) for index in range(spec.num_layers))
    return Adapter(version=_version(path), config=config, layers=layers)


def _peft_config(config: LoraConfig, base_name: str, targets: Sequence[str]) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "layers_to_transform": None,
    }


def _same_lora(path: Path, config: dict[str, Any]) -> bool:
    try:
        present = read_json_object(path)
    except UserError:
        return False
    return all(present.get(key) == config[key] for key in ("r", "lora_alpha"))


def _names(layer: int, module: Module) -> tuple[str, str]:
    place = f"{_PREFIX}.{layer}.{module.name}"
    return f"{place}.lora_A.weight", f"{place}.lora_B.weight"


def _peft_tensors(adapter: Adapter, spec: ModelSpec) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(adapter.layers):
        for field, modules in linear_modules(spec).items():
            pair: LoraPair = getattr(layer, field)
            as_RK = pair.a_RK.detach().split(adapter.config.r)
            for module, a_RK, b_NR in zip(modules, as_RK, pair.bs_NR, strict=True):
                name_a, name_b = _names(index, module)
                # Clones, for safetensors refuses parts of one tensor.
                tensors[name_a] = a_RK.clone(memory_format=torch.contiguous_format)
                tensors[name_b] = b_NR.detach().contiguous()
    return tensors


def _write_weights(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    """Equal adapters give equal bytes: safetensors alone writes its metadata in a random order."""
    save_file(tensors, path, metadata)
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = metadata
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":")).encode().ljust(size))


def _lora_config(folder: Path, expected: Sequence[str]) -> LoraConfig:
    path = folder / CONFIG_FILE
    config = read_json_object(path)
    for key, harmless in _HARMLESS.items():
        value: Any = config.get(key, harmless[0])
        if not any(value is plain or (value == plain and type(value) is type(plain)) for plain in harmless):
            raise UserError(f"{path}: {key} is {str(value)[:80]}; groat trains plain LoRA only. Use another adapter.")
    targets: Any = config.get("target_modules")
    if not isinstance(targets, list) or set(map(str, cast(list[Any], targets))) != set(expected):
        raise UserError(
            f"{path}: target_modules is {str(targets)[:120]}; groat's adapters for this model are on "
            f"{', '.join(expected)}."
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if (
        isinstance(rank, bool)
        or not isinstance(rank, int)
        or isinstance(alpha, bool)
        or not isinstance(alpha, int | float)
    ):
        raise UserError(f"{path}: r is {rank!r} and lora_alpha {alpha!r}; both must be numbers. Get the file again.")
    try:
        return LoraConfig(r=rank, lora_alpha=float(alpha))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: {error}. Get the file again.") from error


def _expected_shapes(spec: ModelSpec, rank: int) -> Iterator[tuple[str, tuple[int, int]]]:
    modules = [module for parts in linear_modules(spec).values() for module in parts]
    for index in range(spec.num_layers):
        for module in modules:
            name_a, name_b = _names(index, module)
            yield name_a, (rank, module.num_in)
            yield name_b, (module.num_out, rank)


def _check_names_and_shapes(path: Path, stored: dict[str, StoredTensor], spec: ModelSpec, rank: int) -> None:
    expected = dict(_expected_shapes(spec, rank))
    for name, shape in expected.items():
        if name not in stored:
            raise UserError(f"{path} has no tensor {name}. Was this adapter made for another model?")
        if stored[name].shape != shape:
            raise UserError(
                f"{path}: {name} has shape {list(stored[name].shape)}, this model with r = {rank} {list(shape)}. "
                "Was this adapter made for another model?"
            )
        check_number_type(name, stored[name])
    if extra := stored.keys() - expected.keys():
        raise UserError(
            f"{path} holds {len(extra)} tensors beside plain LoRA, such as {min(extra)}. Use another adapter."
        )


def _layer_adapter(stored: dict[str, StoredTensor], spec: ModelSpec, index: int) -> LayerAdapter:
    parts = linear_modules(spec)
    return LayerAdapter(**{field: _pair(stored, index, modules) for field, modules in parts.items()})


def _pair(stored: dict[str, StoredTensor], index: int, modules: Sequence[Module]) -> LoraPair:
    names = [_names(index, module) for module in modules]
    a_RK = torch.cat([read_tensor(stored[name_a]) for name_a, _ in names])
    bs_NR = tuple(read_tensor(stored[name_b]) for _, name_b in names)
    for tensor in (a_RK, *bs_NR):
        tensor.requires_grad_(True)
    return LoraPair(a_RK=a_RK, bs_NR=bs_NR)


def _version(path: Path) -> int:
    """The policy version that save_peft noted; 0 for an adapter from elsewhere."""
    with safe_open(path, framework="pt") as file:
        noted = (file.metadata() or {}).get(_VERSION_KEY, "0")
    return int(noted) if noted.isdecimal() and len(noted) < 19 else 0
