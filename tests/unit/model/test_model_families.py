import pytest

from groat.model.families import spec_from_hf_config
from groat.model.spec import Llama3RopeScaling, LongRopeScaling
from groat.types import UserError

LLAMA_4_LAYOUT = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PHI4_MINI = LLAMA_4_LAYOUT | {
    "architectures": ["Phi3ForCausalLM"],
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6},
}
SMOLLM3 = LLAMA_4_LAYOUT | {"architectures": ["SmolLM3ForCausalLM"]}
QWEN2 = LLAMA_4_LAYOUT | {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 256, "max_window_layers": 1}


def test_llama_head_size_is_hidden_size_over_heads_when_not_stated():
    spec = spec_from_hf_config(LLAMA_4_LAYOUT)
    assert (spec.family, spec.head_dim, spec.query_size, spec.kv_size) == ("llama", 16, 64, 32)
    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias, spec.qk_norm) == (False, False, False, False)
    assert spec.tied_head


def test_rope_of_transformers_4_and_5_layouts_reads_the_same():
    four = spec_from_hf_config(LLAMA_4_LAYOUT | {"rope_scaling": SCALING})
    without_theta = {key: value for key, value in LLAMA_4_LAYOUT.items() if key != "rope_theta"}
    five = spec_from_hf_config(without_theta | {"rope_parameters": SCALING | {"rope_theta": 500000.0}})
    assert four == five
    assert five.rope_theta == 500000.0
    assert five.rope_scaling == Llama3RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
    )


def test_attention_bias_of_llama_is_on_queries_keys_values_and_output():
    spec = spec_from_hf_config(LLAMA_4_LAYOUT | {"attention_bias": True, "mlp_bias": True})
    assert (spec.qkv_bias, spec.output_bias, spec.mlp_bias) == (True, True, True)


def test_qwen2_has_qkv_bias_alone_and_qwen3_norms_queries_and_keys():
    qwen2 = spec_from_hf_config(QWEN2)
    qwen3 = spec_from_hf_config(LLAMA_4_LAYOUT | {"architectures": ["Qwen3ForCausalLM"]})
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.output_bias, qwen3.qk_norm, qwen3.head_dim) == (False, False, True, 128)


def test_phi4_mini_rotates_three_quarters_of_a_head_and_keeps_to_the_context_it_was_first_trained_with():
    spec = spec_from_hf_config(PHI4_MINI)
    assert (spec.fused_modules, spec.rotary_size, spec.head_dim, spec.max_context) == (True, 12, 16, 4096)
    # 131072 is 32 times 4096 = 2^12: sqrt(1 + 5 / 12).
    assert spec.rope_scaling == LongRopeScaling(short_factors=(1.0,) * 6, attention_factor=pytest.approx(1.190238))


def test_every_fourth_layer_of_smollm3_has_no_positions_unless_it_says_otherwise():
    assert spec_from_hf_config(SMOLLM3 | {"num_hidden_layers": 9}).unrotated_layers == {3, 7}
    assert spec_from_hf_config(SMOLLM3 | {"no_rope_layers": [0, 1, 1, 0]}).unrotated_layers == {0}
    assert spec_from_hf_config(LLAMA_4_LAYOUT | {"no_rope_layers": [0, 1, 1]}).unrotated_layers == frozenset()


@pytest.mark.parametrize(
    ("config", "max_context"),
    [
        (LLAMA_4_LAYOUT | {"architectures": ["MistralForCausalLM"], "sliding_window": 256}, 256),
        (LLAMA_4_LAYOUT | {"architectures": ["MistralForCausalLM"], "sliding_window": None}, 2048),
        (LLAMA_4_LAYOUT | {"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, 2048),
        (QWEN2, 2048),
        (QWEN2 | {"use_sliding_window": True}, 256),
        # Layers from max_window_layers on slide: of three layers none.
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 3}, 2048),
        (QWEN2 | {"use_sliding_window": True, "layer_types": ["full_attention"] * 3}, 2048),
        (QWEN2 | {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]}, 256),
    ],
)
def test_a_sliding_window_in_use_limits_the_context(config, max_context):
    assert spec_from_hf_config(config).max_context == max_context


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"]),
        ({"architectures": "LlamaForCausalLM"}, ["architectures", "list"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, ["yarn", "llama3"]),
        ({"rope_scaling": {"rope_type": "llama3"}}, ["factor"]),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1}}}, ["rope_parameters"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantized"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, ["rope_parameters", "partial_rotary_factor"]),
        (PHI4_MINI | {"partial_rotary_factor": 1.5}, ["partial_rotary_factor"]),
        (PHI4_MINI | {"partial_rotary_factor": 0.2}, ["partial_rotary_factor 0.2", "is 3"]),
        (PHI4_MINI | {"partial_rotary_factor": 0.5}, ["short_factor has 6 numbers for 4"]),
        (PHI4_MINI | {"rope_scaling": {"type": "longrope", "short_factor": [0.0]}}, ["short_factor", "0.0"]),
        (PHI4_MINI | {"rope_scaling": {"type": "longrope", "short_factor": "1"}}, ["short_factor", "list"]),
        (PHI4_MINI | {"original_max_position_embeddings": None}, ["original_max_position_embeddings"]),
        (SMOLLM3 | {"no_rope_layers": [1, 0]}, ["no_rope_layers", "list of 3"]),
        ({"hidden_size": None}, ["hidden_size"]),
        ({"hidden_size": "64"}, ["hidden_size", "'64'"]),
        ({"hidden_size": -1}, ["hidden_size"]),
        ({"num_hidden_layers": 10**30}, ["num_hidden_layers"]),
        ({"num_attention_heads": 0}, ["num_attention_heads"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads"]),
        ({"head_dim": 7}, ["head_dim"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps"]),
        ({"rope_theta": float("inf")}, ["rope_theta"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings"]),
    ],
)
def test_what_we_would_compute_wrongly_is_refused_by_name(changes, words):
    with pytest.raises(UserError) as refused:
        spec_from_hf_config(LLAMA_4_LAYOUT | changes, "somewhere/config.json")
    assert all(word in str(refused.value) for word in words)
    assert "somewhere/config.json" in str(refused.value)
