"""A tiny model of every family is a whole model, and its seed decides it."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM

from groat.config.tree import ModelConfig
from groat.kernels.matrix import dense_of
from groat.model.load import LoadedModel, load_model
from groat.testing import tiny_model
from groat.testing.tiny_model import Family


def loaded(folder: Path, family: str = "llama", seed: int = 0) -> LoadedModel:
    return load_model(ModelConfig(name=str(tiny_model(folder, family, seed=seed))))


@pytest.mark.parametrize("family", get_args(Family))
def test_every_family_loads_with_its_own_parts(tmp_path: Path, family: str):
    model = loaded(tmp_path, family)
    assert model.spec.family == family
    assert model.spec.vocab_size == model.tokenizer.vocab_size == 259
    assert model.spec.qkv_bias == (family == "qwen2")
    assert model.spec.qk_norm == (family == "qwen3")


@pytest.mark.parametrize("family", get_args(Family))
def test_transformers_finds_every_weight(tmp_path: Path, family: str):
    folder = str(tiny_model(tmp_path, family))
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) < 40_000


def test_the_seed_decides_the_weights(tmp_path: Path):
    first, again, other = (
        dense_of(loaded(tmp_path / name, seed=seed).weights.head_VH) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_token_is_a_byte_and_chat_turns_are_chatml(tmp_path: Path):
    tokenizer = loaded(tmp_path).tokenizer
    assert len(tokenizer.encode("héllo")) == 6
    assert tokenizer.decode(tokenizer.encode("héllo")) == "héllo"
    assert (
        tokenizer.render([{"role": "user", "content": "Hi"}])
        == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.stop_token_ids == {258}
