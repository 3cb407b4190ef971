import json
import time

import gguf
import numpy as np
import pytest
import torch
from tiny_decoders import tiny_spec
from tiny_models import CHATML, MERGES, SIZES, SPECIAL_TOKENS, byte_tokenizer, tiny_transformers_model
from transformers import AutoModelForCausalLM

from groat.config.tree import ModelConfig
from groat.model.checkpoint import weight_files
from groat.model.fingerprint import fingerprint
from groat.model.gguf_config import llama3_rope_factors
from groat.model.gguf_files import folder_from_gguf
from groat.model.gguf_reader import open_gguf
from groat.model.gguf_weights import GgufWeights
from groat.model.load import load_model
from groat.model.locate import _demo_gguf, read_spec
from groat.types import UserError

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As llama.cpp's convert_hf_to_gguf.py does to Llama's queries and keys."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, kind="qwen2", *, metadata=None, rope_theta=10000.0, rope_factors=None):
    """A tiny model of transformers' as a GGUF file; returns its state dict."""
    architecture = "llama" if kind.startswith(("llama", "mistral")) else kind
    model = tiny_transformers_model(kind)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_key_length(SIZES["head_dim"])
    writer.add_value_length(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(rope_theta)
    backend = byte_tokenizer()
    tokens = [backend.id_to_token(index) or f"[PAD{index}]" for index in range(SIZES["vocab_size"])]
    kinds = [3 if token in SPECIAL_TOKENS else 5 if token.startswith("[PAD") else 1 for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(262)
    writer.add_eos_token_id(264)
    writer.add_chat_template(CHATML)
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    state = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    for name, tensor in state.items():
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        if architecture == "llama" and ("attn_q." in name or "attn_k." in name):
            tensor = permuted(tensor, 4 if "attn_q." in name else 2)
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(rope_factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return state


def refusal(path) -> str:
    with pytest.raises(UserError) as refused:
        folder_from_gguf(path)
    message = str(refused.value)
    assert "\n" not in message
    assert not list((path.parent / "cache").rglob("model.gguf"))
    return message


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama", "llama with biases"])
def test_a_gguf_gives_the_weights_it_was_written_from_whole_and_a_few_rows_at_a_time(kind, tmp_path):
    """Rows 5 to 13 begin and end inside heads of 8, whose rows llama.cpp mixes."""
    state = write_gguf(tmp_path / "tiny.gguf", kind)
    folder = folder_from_gguf(tmp_path / "tiny.gguf")
    files = weight_files(folder, read_spec(folder))
    assert files.stored.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(files.rows(name, slice(0, len(tensor))), torch.from_numpy(tensor)), name
        stop = min(13, len(tensor))
        assert torch.equal(files.rows(name, slice(5, stop)), torch.from_numpy(tensor)[5:stop]), name


@pytest.mark.parametrize("number_type", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_rows_of_every_number_type_are_what_the_gguf_package_reads(number_type, tmp_path):
    path, kind = tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[number_type]
    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.attn_q.weight", gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind)
    halves = expected.reshape(4, 4, 2, 64).swapaxes(1, 2).reshape(32, 64)  # heads of 8, llama.cpp's pairs undone
    files = GgufWeights(path, tiny_spec(head_dim=8))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(files.rows(name, slice(3, 29)).float(), torch.from_numpy(halves[3:29]))


def test_only_config_and_tokenizer_of_a_gguf_are_kept_in_the_cache(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    folder = folder_from_gguf(tmp_path / "tiny.gguf")
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.gguf",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "model.gguf").readlink() == tmp_path / "tiny.gguf"


def test_a_gguf_loads_as_a_model_with_its_tokenizer(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    model = load_model(ModelConfig(name=str(tmp_path / "tiny.gguf")))
    assert (model.spec.family, model.spec.tied_head, model.spec.vocab_size) == ("qwen2", True, 288)
    assert model.tokenizer.stop_token_ids == {264}
    text = "hello the tim 123 <|im_end|>é"
    assert model.tokenizer.encode(text) == byte_tokenizer().encode(text).ids
    assert model.tokenizer.encode_prompt([{"role": "user", "content": "hello"}])[:1] == [263]


def test_our_reader_finds_what_the_gguf_packages_reader_finds(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "llama", rope_factors=[1, 2, 3, 4])
    theirs = gguf.GGUFReader(path)
    with open_gguf(path) as ours:
        expected = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert ours.metadata == expected
        assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
        for tensor in theirs.tensors:
            assert ours.rows(tensor.name).tobytes() == tensor.data.tobytes()


def test_files_of_one_config_with_other_weights_have_another_fingerprint(tmp_path):
    """What was measured on one of them must not be used for the other."""
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_gguf(first)
    whole = bytearray(first.read_bytes())
    whole[-1] ^= 1
    second.write_bytes(whole)
    folders = [folder_from_gguf(first), folder_from_gguf(second)]
    assert len({(folder / "config.json").read_bytes() for folder in folders}) == 1
    assert len({fingerprint(folder) for folder in folders}) == 2


def test_the_cache_is_used_again_and_a_changed_file_is_not_mistaken_for_the_old_one(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    folder = folder_from_gguf(path)
    first = (folder / "config.json").stat().st_mtime_ns
    assert folder_from_gguf(path) == folder
    assert (folder / "config.json").stat().st_mtime_ns == first
    write_gguf(path, "qwen3")
    assert folder_from_gguf(path) != folder


def test_a_conversion_that_another_process_finished_first_is_used(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    folder = folder_from_gguf(path)
    import groat.model.gguf_files as module

    module._write_atomically(path, folder)  # as a process that did not see the cache when it began
    assert sorted(place.name for place in folder.parent.iterdir()) == [folder.name]


def test_a_conversion_that_fails_leaves_no_cache(tmp_path, monkeypatch):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("groat.model.gguf_files.write_json", full)
    assert "No space left" in refusal(path)
    assert not list((tmp_path / "cache/groat/gguf").iterdir())


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_factors_are_read_back_as_scaling(factor, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, "llama", rope_theta=500000.0, rope_factors=llama3_rope_factors(500000.0, 8, factor))
    scaling = load_model(ModelConfig(name=str(path))).spec.rope_scaling
    assert scaling is not None
    assert (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor) == (factor, 1.0, 4.0)
    assert scaling.original_max_position_embeddings == 8192


def test_llama3_rope_factors_worked_out_by_hand():
    # theta 10^8, 4 frequencies: 1, 1e-2, 1e-4, 1e-6; wavelengths 6.28, 628.3, 62832, 6.28e6 against 2048 and 8192.
    assert llama3_rope_factors(1e8, 8, 8.0).tolist() == [1.0, 1.0, 8.0, 8.0]


def test_other_rope_factors_are_refused(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "llama", rope_factors=[1, 1, 2, 3])
    assert "rope_freqs.weight" in refusal(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"qwen2.expert_count": 8}, "expert_count"),
        ({"qwen2.rope.scaling.type": "yarn"}, "yarn"),
        ({"qwen2.rope.dimension_count": 4}, "rope.dimension_count"),
    ],
)
def test_what_we_would_compute_wrongly_is_refused_by_name(metadata, word, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", metadata=metadata)
    assert word in refusal(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b"qwen2", b"qwenX", "qwenX"),
        (b"gpt-2", b"tekke", "tekke"),
        (b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0spm2", "spm2"),
        (b"blk.1.attn_k.weight", b"blk.1.attn_z.weight", "attn_"),
        (b"h e", b"h z", "do not fit"),
    ],
)
def test_unknown_names_inside_the_file_are_named(old, new, word, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    assert word in refusal(path)


def test_a_gguf_cut_off_anywhere_is_one_clear_error(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for size in [*range(0, 64, 5), *range(64, 8000, 613), len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert "tiny.gguf" in refusal(path)


def test_1000_damaged_ggufs_are_loaded_or_refused_in_a_millisecond_each(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    num_refused = 0
    begin = time.monotonic()
    for _ in range(1000):
        damaged = bytearray(whole)
        # Half of them hit a length or count with a huge value.
        place = int(generator.integers(0, 9000))
        damage = b"\xff" * int(generator.integers(1, 9)) if generator.random() < 0.5 else generator.bytes(1)
        damaged[place : place + len(damage)] = damage
        path.write_bytes(damaged)
        try:
            with open_gguf(path):
                pass
        except UserError:
            num_refused += 1
    assert num_refused > 200
    assert time.monotonic() - begin < 30


def test_damaged_ggufs_convert_or_are_refused(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    num_refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[int(generator.integers(0, 9000))] = int(generator.integers(0, 256))
        path.write_bytes(damaged)
        try:
            load_model(ModelConfig(name=str(path)))
        except UserError:
            num_refused += 1
    assert num_refused > 30


def test_text_is_cut_as_transformers_cuts_it_for_the_same_names():
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    from groat.model.gguf_tokenizer import _LLAMA3_SPLIT, _QWEN2_SPLIT

    assert GGUF_PRE_TOKENIZER_SPLITS["llama-bpe"] == _LLAMA3_SPLIT
    assert GGUF_PRE_TOKENIZER_SPLITS["qwen2"] == _QWEN2_SPLIT


@pytest.mark.slow
def test_smollm2s_weights_equal_transformers_reading_of_the_same_gguf():
    path = _demo_gguf()
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    folder = folder_from_gguf(path)
    spec = read_spec(folder)
    files = weight_files(folder, spec)
    assert set(theirs) - set(files.stored) == {"lm_head.weight"}
    for name in files.stored:
        assert torch.equal(files.rows(name, slice(0, len(theirs[name]))), theirs[name]), name
    assert (spec.num_layers, spec.norm_epsilon, spec.rope_theta, spec.max_context) == (30, 1e-5, 100000.0, 8192)


def test_config_of_the_converted_folder_is_what_the_metadata_says(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "qwen3")
    config = json.loads((folder_from_gguf(tmp_path / "tiny.gguf") / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-6
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is False
