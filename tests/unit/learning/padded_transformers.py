"""The loss of a step as others compute it: transformers' Llama, LoRA merged into its weights, rows padded alike.

Shares no code with the learner: prompts are padded on the left and completions on the right, as in TRL.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from groat.model.decoder import Decoder
from groat.model.lora import Adapter, LoraPair
from groat.model.spec import ModelSpec
from groat.model.weights import Linear
from groat.types import Sample

PAD = 0


def padded_loss(
    decoder: Decoder,
    adapter: Adapter,
    samples: Sequence[Sample],
    total_tokens: int,
    *,
    temperature: float,
    beta: float,
    epsilon: float = 0.2,
    cap: float = 3.0,
) -> torch.Tensor:
    """DAPO's token-level loss with clipping, truncated sampler weights and a KL term, divided by `total_tokens`."""
    logprobs_BL = padded_logprobs(decoder, adapter, samples, temperature)
    old_BL = _right_padded([sample.completion.old_logprobs for sample in samples], logprobs_BL.dtype)
    sampler_BL = _right_padded([sample.completion.sampler_logprobs for sample in samples], logprobs_BL.dtype)
    reference_BL = _right_padded([sample.completion.reference_logprobs for sample in samples], logprobs_BL.dtype)
    advantages_BL = _right_padded([sample.advantages for sample in samples], logprobs_BL.dtype)
    mask_BL = _right_padded([(1.0,) * sample.num_tokens for sample in samples], logprobs_BL.dtype)

    ratio_BL = torch.exp(logprobs_BL - old_BL)
    clipped_BL = torch.clamp(ratio_BL, 1 - epsilon, 1 + epsilon)
    loss_BL = -torch.min(ratio_BL * advantages_BL, clipped_BL * advantages_BL)
    loss_BL = loss_BL * torch.clamp(torch.exp(old_BL - sampler_BL), max=cap)
    kl_BL = torch.exp(reference_BL - logprobs_BL) - (reference_BL - logprobs_BL) - 1
    return ((loss_BL + beta * kl_BL) * mask_BL).sum() / total_tokens


def padded_logprobs(decoder: Decoder, adapter: Adapter, samples: Sequence[Sample], temperature: float) -> torch.Tensor:
    """Log-probs [B, L] of every completion, whatever stands in the padding."""
    model, parameters = merged_transformers_llama(decoder, adapter)
    prompt_length = max(len(sample.prompt.token_ids) for sample in samples)
    length = max(sample.num_tokens for sample in samples)
    rows: list[list[int]] = []
    masks: list[list[int]] = []
    for sample in samples:
        left, right = prompt_length - len(sample.prompt.token_ids), length - sample.num_tokens
        rows.append([PAD] * left + [*sample.prompt.token_ids, *sample.completion.token_ids] + [PAD] * right)
        masks.append([0] * left + [1] * (len(sample.prompt.token_ids) + sample.num_tokens) + [0] * right)
    ids_BT, mask_BT = torch.tensor(rows), torch.tensor(masks)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": positions_BT}
    logits_BTV = torch.func.functional_call(model, parameters, kwargs=inputs).logits
    logits_BLV = logits_BTV[:, prompt_length - 1 : -1] / temperature
    return logits_BLV.log_softmax(-1).gather(2, ids_BT[:, prompt_length:, None])[..., 0]


def merged_transformers_llama(decoder: Decoder, adapter: Adapter) -> tuple[LlamaForCausalLM, dict[str, torch.Tensor]]:
    """A Llama, and its parameters as functions of the adapter's: W + scale * B A."""
    spec, weights = decoder.spec, decoder.weights
    named = {
        "model.embed_tokens.weight": weights.embedding_VH,
        "model.norm.weight": weights.final_norm_H,
        "lm_head.weight": weights.head_VH,
    }
    for index, (layer, trained) in enumerate(zip(weights.layers, adapter.layers, strict=True)):
        prefix = f"model.layers.{index}"
        named[f"{prefix}.input_layernorm.weight"] = layer.input_norm_H
        named[f"{prefix}.post_attention_layernorm.weight"] = layer.mlp_norm_H
        for names, base, pair in (
            (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), layer.qkv, trained.qkv),
            (("self_attn.o_proj",), layer.output, trained.output),
            (("mlp.gate_proj", "mlp.up_proj"), layer.gate_up, trained.gate_up),
            (("mlp.down_proj",), layer.down, trained.down),
        ):
            named |= _merged([f"{prefix}.{name}" for name in names], base, pair, adapter.scale)
    model = LlamaForCausalLM(_config(spec)).to(weights.embedding_VH.dtype).eval()
    assert named.keys() == dict(model.named_parameters()).keys()
    return model, named


def _merged(names: Sequence[str], base: Linear, pair: LoraPair, scale: float) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    first, rank = 0, pair.bs_NR[0].shape[1]
    assert base.bias_N is not None
    for part, (name, b_NR) in enumerate(zip(names, pair.bs_NR, strict=True)):
        rows = slice(first, first + b_NR.shape[0])
        merged[f"{name}.weight"] = base.weight_NK[rows] + scale * b_NR @ pair.a_RK[part * rank : (part + 1) * rank]
        merged[f"{name}.bias"] = base.bias_N[rows]
        first += b_NR.shape[0]
    return merged


def _config(spec: ModelSpec) -> LlamaConfig:
    assert not spec.qk_norm
    assert not spec.tied_head
    return LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        rms_norm_eps=spec.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        attention_bias=spec.qkv_bias,
        mlp_bias=spec.mlp_bias,
        max_position_embeddings=spec.max_context,
        tie_word_embeddings=False,
    )


def _right_padded(values: Sequence[tuple[float, ...] | None], dtype: torch.dtype) -> torch.Tensor:
    rows = [torch.tensor(row, dtype=dtype) for row in values if row is not None]
    assert len(rows) == len(values)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
