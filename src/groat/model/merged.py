"""A model and its adapter as one checkpoint in Hugging Face's layout: W + alpha / r * B A, a few rows at a time.

W is the checkpoint's own weight, whatever the adapter was trained over: what 8 or 4 bits had rounded is exact again.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import torch

from groat.kernels.quantized import row_ranges
from groat.model.checkpoint import TensorFiles, check_names_and_shapes, expected_shapes, weight_files
from groat.model.files import read_json_object, replace_file, write_json
from groat.model.locate import read_spec
from groat.model.lora import Adapter, LoraPair
from groat.model.modules import linear_modules
from groat.model.spec import ModelSpec
from groat.types import UserError

MergedType = Literal["float32", "bfloat16"]

_TYPES: dict[MergedType, tuple[torch.dtype, str]] = {
    "float32": (torch.float32, "F32"),
    "bfloat16": (torch.bfloat16, "BF16"),
}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


def save_merged(adapter: Adapter, model_folder: Path, folder: Path, number_type: MergedType = "bfloat16") -> None:
    """Write weights, config and tokenizer, each in one step; transformers, vLLM and groat read them.

    Holds about 20 MiB beside the adapter. `model_folder` is what `locate.model_folder` returns for the base model.
    """
    if folder.resolve() == model_folder.resolve() or (folder / _INDEX).exists():
        raise UserError(f"{folder} holds another model: save the merged one into a folder of its own")
    spec = read_spec(model_folder)
    files = weight_files(model_folder, spec)
    check_names_and_shapes(files, spec)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / _WEIGHTS, lambda path: _write_weights(path, files, spec, adapter, number_type))
        copy_tokenizer(model_folder, folder)
        config = {key: value for key, value in _config(model_folder).items() if key not in ("torch_dtype", "dtype")}
        replace_file(folder / "config.json", lambda path: write_json(path, config | {"torch_dtype": number_type}))
    except OSError as error:
        raise UserError(
            f"the merged model could not be written to {folder}: {error}. Make room, or check rights."
        ) from error


def copy_tokenizer(model_folder: Path, folder: Path) -> None:
    """What belongs to a model beside its weights and its shape."""
    for name in _COMPANIONS:
        if (model_folder / name).exists():
            shutil.copyfile(model_folder / name, folder / name)


def _config(model_folder: Path) -> dict[str, object]:
    """The model's, without what says that its weights are quantized."""
    config = read_json_object(model_folder / "config.json")
    config.pop("quantization_config", None)
    return config


def _write_weights(path: Path, files: TensorFiles, spec: ModelSpec, adapter: Adapter, number_type: MergedType) -> None:
    dtype, type_name = _TYPES[number_type]
    shapes = dict(expected_shapes(spec))
    pairs = dict(_pairs(spec, adapter))
    with path.open("wb") as file:
        _write_header(file, shapes, type_name, dtype.itemsize)
        for name, shape in shapes.items():
            for rows in row_ranges((shape[0], shape[1] if len(shape) == 2 else 1)):
                values = files.rows(name, rows).float()
                if name in pairs:
                    a_RK, b_NR = pairs[name]
                    values = torch.addmm(values, b_NR[rows], a_RK, alpha=adapter.scale)
                file.write(values.to(dtype).contiguous().flatten().view(torch.uint8).numpy().data)


def _write_header(file: IO[bytes], shapes: dict[str, tuple[int, ...]], type_name: str, item_bytes: int) -> None:
    """Of a safetensors file: its length, then JSON that says where every tensor lies, filled up to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + item_bytes * math.prod(shape)
        header[name] = {"dtype": type_name, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    file.write(len(text).to_bytes(8, "little") + text)


def _pairs(spec: ModelSpec, adapter: Adapter) -> Iterator[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Each linear module's A [R, K] and B [N, R], by the name of its weight."""
    for index, layer in enumerate(adapter.layers):
        for field, modules in linear_modules(spec).items():
            pair: LoraPair = getattr(layer, field)
            as_RK = pair.a_RK.detach().split(adapter.config.r)
            for module, a_RK, b_NR in zip(modules, as_RK, pair.bs_NR, strict=True):
                yield f"model.layers.{index}.{module.name}.weight", (a_RK, b_NR.detach())
