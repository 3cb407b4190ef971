import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, tiny_transformers_model

from groat.config.tree import LoraConfig
from groat.model.families import spec_from_hf_config
from groat.model.lora import Adapter, new_adapter
from groat.model.peft_files import load_peft, save_peft
from groat.model.spec import ModelSpec
from groat.types import UserError

MODEL = tiny_transformers_model("llama")
SPEC = spec_from_hf_config(MODEL.config.to_dict())
PHI = tiny_transformers_model("phi3")
PHI_SPEC = spec_from_hf_config(PHI.config.to_dict())


def random_adapter(rank: int = 3, alpha: float = 5.0, version: int = 12, spec: ModelSpec = SPEC) -> Adapter:
    generator = torch.Generator().manual_seed(1)
    adapter = new_adapter(spec, LoraConfig(r=rank, lora_alpha=alpha), generator)
    with torch.no_grad():
        for tensor in adapter.named_tensors().values():
            tensor.normal_(0, 0.2, generator=generator)
    return Adapter(version=version, config=adapter.config, layers=adapter.layers)


def merged_by_hand(adapter: Adapter) -> torch.nn.Module:
    """Each part's weight becomes weight + alpha / r * B A."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        for layer, ours in zip(model.model.layers, adapter.layers, strict=True):
            at, mlp, rank = layer.self_attn, layer.mlp, adapter.config.r
            for pair, parts in (
                (ours.qkv, (at.q_proj, at.k_proj, at.v_proj)),
                (ours.output, (at.o_proj,)),
                (ours.gate_up, (mlp.gate_proj, mlp.up_proj)),
                (ours.down, (mlp.down_proj,)),
            ):
                for index, part in enumerate(parts):
                    part.weight += adapter.scale * pair.bs_NR[index] @ pair.a_RK[index * rank : (index + 1) * rank]
    return model


def test_peft_computes_what_merging_a_and_b_by_hand_gives(tmp_path):
    adapter = random_adapter()
    save_peft(adapter, SPEC, "tiny", tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(MODEL), tmp_path)
    ids = torch.arange(2, 40).unsqueeze(0)
    with torch.no_grad():
        expected = merged_by_hand(adapter)(ids).logits
        assert (expected - MODEL(ids).logits).abs().max() > 0.1
        assert torch.allclose(theirs(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_comes_back_bit_for_bit_and_ready_to_train(tmp_path):
    adapter = random_adapter()
    save_peft(adapter, SPEC, "tiny", tmp_path)
    back = load_peft(tmp_path, SPEC)
    assert (back.version, back.config) == (12, adapter.config)
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in back.named_tensors().values())
    for name, tensor in adapter.named_tensors().items():
        assert torch.equal(back.named_tensors()[name], tensor), name


def test_equal_adapters_are_saved_as_equal_bytes(tmp_path):
    # safetensors keeps metadata in a hash map, whose order changes from one save to the next.
    for number in range(10):
        save_peft(random_adapter(), SPEC, "tiny", tmp_path / str(number))
    files = [(tmp_path / str(number) / "adapter_model.safetensors").read_bytes() for number in range(10)]
    assert len(set(files)) == 1


def test_saving_again_replaces_the_adapter_and_leaves_no_other_files(tmp_path):
    save_peft(random_adapter(rank=2), SPEC, "tiny", tmp_path)
    save_peft(random_adapter(rank=4), SPEC, "tiny", tmp_path)
    assert load_peft(tmp_path, SPEC).config.r == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_an_adapter_saved_by_peft_itself_is_read(tmp_path):
    import peft

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM")
    peft.get_peft_model(copy.deepcopy(MODEL), config).save_pretrained(tmp_path)
    back = load_peft(tmp_path, SPEC)
    assert (back.version, back.config) == (0, LoraConfig(r=2, lora_alpha=4.0))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    key = saved["base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight"]
    assert torch.equal(back.layers[1].qkv.a_RK[2:4], key)


def test_phi3s_fused_modules_have_one_a_and_one_b_as_in_peft(tmp_path):
    """Query, key and value share the r rows of A: what PEFT trains, and merging by hand gives."""
    adapter = random_adapter(spec=PHI_SPEC)
    assert [tuple(tensor.shape) for tensor in (adapter.layers[0].qkv.a_RK, *adapter.layers[0].qkv.bs_NR)] == [
        (3, 24),
        (64, 3),
    ]
    save_peft(adapter, PHI_SPEC, "tiny", tmp_path)
    theirs = PeftModel.from_pretrained(copy.deepcopy(PHI), tmp_path)
    merged = copy.deepcopy(PHI)
    with torch.no_grad():
        for layer, ours in zip(merged.model.layers, adapter.layers, strict=True):
            at, mlp = layer.self_attn, layer.mlp
            for pair, module in (
                (ours.qkv, at.qkv_proj),
                (ours.output, at.o_proj),
                (ours.gate_up, mlp.gate_up_proj),
                (ours.down, mlp.down_proj),
            ):
                module.weight += adapter.scale * pair.bs_NR[0] @ pair.a_RK
        ids = torch.arange(2, 40).unsqueeze(0)
        expected = merged(ids).logits
        assert (expected - PHI(ids).logits).abs().max() > 0.1
        assert torch.allclose(theirs(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_phi3_saved_by_peft_itself_is_read(tmp_path):
    import peft

    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM")
    peft.get_peft_model(copy.deepcopy(PHI), config).save_pretrained(tmp_path)
    back = load_peft(tmp_path, PHI_SPEC)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    gate_up = saved["base_model.model.model.layers.1.mlp.gate_up_proj.lora_A.weight"]
    assert torch.equal(back.layers[1].gate_up.a_RK, gate_up)
    with pytest.raises(UserError, match="qkv_proj"):
        load_peft(tmp_path, SPEC)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"r": "3"}, "r is '3'"),
        ({"r": 0}, "lora.r"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"r": 4}, "lora_A.weight has shape [3, 24]"),
    ],
)
def test_anything_but_plain_lora_on_every_layer_is_refused_by_name(changes, word, tmp_path):
    save_peft(random_adapter(), SPEC, "tiny", tmp_path)
    edit_json(tmp_path / "adapter_config.json", **changes)
    with pytest.raises(UserError) as refused:
        load_peft(tmp_path, SPEC)
    assert word in str(refused.value)


def test_missing_and_extra_tensors_are_refused_by_name(tmp_path):
    save_peft(random_adapter(), SPEC, "tiny", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"dora.magnitude": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"dora\.magnitude"):
        load_peft(tmp_path, SPEC)
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, path)
    with pytest.raises(UserError, match=name):
        load_peft(tmp_path, SPEC)


def test_an_adapter_cut_off_anywhere_is_one_clear_error(tmp_path):
    save_peft(random_adapter(), SPEC, "tiny", tmp_path)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 5, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(UserError, match=name):
                load_peft(tmp_path, SPEC)
        (tmp_path / name).write_bytes(whole)
