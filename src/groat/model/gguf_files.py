"""A GGUF file becomes a folder in the Hugging Face layout, once, in the cache.

The weights are dequantized to fp32, which loses nothing. Everything else in groat then sees one kind of model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize

from groat.caches import cache_folder
from groat.model.families import spec_from_hf_config
from groat.model.files import flush_folder_to_disk, write_json
from groat.model.gguf_config import hf_config_from_gguf
from groat.model.gguf_reader import GgufFile, GgufTensor, open_gguf
from groat.model.gguf_tokenizer import eos_token_ids, tokenizer_config_from_gguf, tokenizer_from_gguf
from groat.types import UserError

log = logging.getLogger("groat")

_CONVERTER_VERSION = 1
"""Raised when the converter changes, so that old cache folders are left alone."""
_ROWS_BYTES = 2**24
"""Weights dequantized at one time."""
_STALE_SECONDS = 3600

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_NAME = re.compile(r"blk\.(\d+)\.([a-z_]+)\.(weight|bias)")
_ROPE_FACTORS = "rope_freqs.weight"


def folder_from_gguf(path: Path) -> Path:
    """The converted folder; taken from the cache where it is there. Holds one tensor and 16 MiB of fp32 rows."""
    folder = converted_models() / _key(path)
    if (folder / "config.json").exists():
        return folder
    log.info("converting %s into %s (once)", path.name, folder)
    try:
        _write_atomically(path, folder)
    except OSError as error:
        raise UserError(
            f"{path} could not be converted into {folder}: {error.strerror or error}. Make room or set XDG_CACHE_HOME "
            "to a folder that can be written."
        ) from error
    return folder


def converted_models() -> Path:
    """The cache folder that converted models are kept in."""
    return cache_folder("gguf")


def _key(path: Path) -> str:
    """Changes with the file's name, size, time, first and last bytes, and with our converter."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(2**16)
            file.seek(max(0, status.st_size - 2**16))
            tail = file.read(2**16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}. Check the file.") from error
    identity = f"{_CONVERTER_VERSION} {path.name} {status.st_size} {status.st_mtime_ns} ".encode()
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:60]
    return f"{stem}-{hashlib.sha256(identity + head + tail).hexdigest()[:16]}"


def _write_atomically(path: Path, folder: Path) -> None:
    """Fill a folder beside `folder` and rename it. Of two processes at once, the second one's work is thrown away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with open_gguf(path) as gguf:
            _convert(gguf, temporary)
        flush_folder_to_disk(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "config.json").exists():
                raise
        flush_folder_to_disk(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    """What a killed conversion left behind."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if leftover.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(leftover, ignore_errors=True)


def _convert(gguf: GgufFile, folder: Path) -> None:
    config = hf_config_from_gguf(gguf)
    spec_from_hf_config(config, str(gguf.path))  # refuse a model we cannot run before spending time on it
    tokenizer_from_gguf(gguf).save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", tokenizer_config_from_gguf(gguf))
    write_json(folder / "generation_config.json", {"eos_token_id": eos_token_ids(gguf)})
    _write_safetensors(gguf, config, folder / "model.safetensors")
    write_json(folder / "config.json", config)


def _hf_name(gguf: GgufFile, name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    matched = _LAYER_NAME.fullmatch(name)
    if matched is None or matched[2] not in _LAYER_NAMES:
        raise UserError(f"{gguf.path} holds the tensor {name}, which groat does not know. Use a plain dense model.")
    return f"model.layers.{int(matched[1])}.{_LAYER_NAMES[matched[2]]}.{matched[3]}"


def _write_safetensors(gguf: GgufFile, config: dict[str, Any], path: Path) -> None:
    """One tensor after the other, so that the whole model is never in memory."""
    names = [name for name in gguf.tensors if name != _ROPE_FACTORS]
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        start, end = end, end + 4 * math.prod(gguf.tensors[name].shape)
        shape = list(gguf.tensors[name].shape)
        header[_hf_name(gguf, name)] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            _write_tensor(gguf, name, config, file)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(gguf: GgufFile, name: str, config: dict[str, Any], file: BinaryIO) -> None:
    tensor, rows = gguf.tensors[name], gguf.rows(name)
    num_heads = _num_permuted_heads(gguf, name, config)
    if num_heads:
        # llama.cpp keeps the two halves of a rotated head interleaved. A bias is stored as one row of such numbers.
        num_rows = tensor.shape[0]
        rows = rows.reshape(num_rows, -1)[_half_order(num_rows, num_heads)]
    for chunk in _chunks(rows, tensor):
        try:
            file.write(np.ascontiguousarray(dequantize(chunk, tensor.kind), dtype="<f4").data)
        except NotImplementedError as error:
            raise UserError(
                f"{gguf.path}: {name} is stored as {tensor.kind.name}, which the gguf package cannot read. Use a file "
                "of another quantization, such as Q4_K_M, Q8_0 or F16."
            ) from error


def _num_permuted_heads(gguf: GgufFile, name: str, config: dict[str, Any]) -> int:
    """llama.cpp permutes queries and keys of the llama architecture only; 0: not permuted."""
    if gguf.metadata.get("general.architecture") != "llama":
        return 0
    if ".attn_q." in name:
        return config["num_attention_heads"]
    return config["num_key_value_heads"] if ".attn_k." in name else 0


def _half_order(num_rows: int, num_heads: int) -> npt.NDArray[np.intp]:
    """Where each row of the Hugging Face layout (first halves, then second halves) lies among the interleaved ones."""
    return np.arange(num_rows).reshape(num_heads, num_rows // num_heads // 2, 2).swapaxes(1, 2).ravel()


def _chunks(rows: npt.NDArray[np.uint8], tensor: GgufTensor) -> Iterator[npt.NDArray[np.uint8]]:
    num_rows_at_once = max(1, _ROWS_BYTES // (4 * tensor.shape[-1]))
    for start in range(0, len(rows), num_rows_at_once):
        yield rows[start : start + num_rows_at_once]
