"""The tensors of a GGUF file by their Hugging Face names; needs no torch."""

from __future__ import annotations

import re

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from groat.model.gguf_reader import GgufFile
from groat.model.tensor_files import StoredTensor
from groat.types import UserError

_ROPE_FACTORS = "rope_freqs.weight"
_PLAIN = ("F32", "F16", "BF16")
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


def named_tensors(gguf: GgufFile) -> dict[str, StoredTensor]:
    """Where each tensor lies, by its Hugging Face name."""
    return {
        _hf_name(gguf, name): StoredTensor(gguf.path, tensor.shape, tensor.kind.name, tensor.offset, tensor.num_bytes)
        for name, tensor in gguf.tensors.items()
        if name != _ROPE_FACTORS
    }


def check_can_dequantize(name: str, stored: StoredTensor) -> None:
    """A UserError unless the gguf package can."""
    kind = GGMLQuantizationType[stored.number_type]
    if len(stored.shape) == 1 and kind.name not in _PLAIN:
        raise UserError(f"{stored.path}: {name} is a vector stored as {kind.name}, not as numbers. Get the file again.")
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), kind)
    except NotImplementedError as error:
        raise UserError(
            f"{stored.path}: {name} is stored as {kind.name}, which the gguf package cannot read. Use a file of "
            "another quantization, such as Q4_K_M, Q8_0 or F16."
        ) from error


def _hf_name(gguf: GgufFile, name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    matched = _LAYER_NAME.fullmatch(name)
    if matched is None or matched[2] not in _LAYER_NAMES:
        raise UserError(f"{gguf.path} holds the tensor {name}, which groat does not know. Use a plain dense model.")
    return f"model.layers.{int(matched[1])}.{_LAYER_NAMES[matched[2]]}.{matched[3]}"
