"""A checkpoint with random weights and one token per byte, in a folder as Hugging Face's save_pretrained leaves it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from groat.model.checkpoint import expected_shapes
from groat.model.families import spec_from_hf_config

NUM_BYTES = 256
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SHARD_BYTES = 2**30
_POOL = 2**24
"""Random numbers drawn; larger tensors repeat them from another place."""


def write_random_checkpoint(folder: Path, config: Mapping[str, Any], seed: int = 0) -> None:
    """bf16 weights for a config.json of any size, written a shard of about 1 GiB at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2))
    write_byte_tokenizer(folder)
    draw = _Pool(seed)
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(_shards(config)):
        file = f"model-{number:05d}.safetensors"
        save_file({name: draw.weight(name, shape) for name, shape in shapes}, folder / file, {"format": "pt"})
        weight_map |= {name: file for name, _ in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_byte_tokenizer(folder: Path) -> None:
    """One token per byte, ChatML, a stop token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _shards(config: Mapping[str, Any]) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    shard: list[tuple[str, tuple[int, ...]]] = []
    used = 0
    for name, shape in expected_shapes(spec_from_hf_config(dict(config))):
        size = 2 * math.prod(shape)
        if shard and used + size > _SHARD_BYTES:
            yield shard
            shard, used = [], 0
        shard.append((name, shape))
        used += size
    yield shard


class _Pool:
    """Draws once, then hands the same numbers out from ever other places: 14 billion draws would take minutes."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._values = torch.randn(_POOL, generator=self._generator)

    def weight(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Sizes that keep activations near 1."""
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16)
        spread = 1 / math.sqrt(shape[1]) if len(shape) == 2 else 0.1
        start = int(torch.randint(_POOL, (1,), generator=self._generator))
        values = (self._values.roll(start) * spread).bfloat16()
        count = math.prod(shape)
        return values.repeat(-(-count // _POOL))[:count].reshape(shape).clone()
