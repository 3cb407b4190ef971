"""The decoder's layers in single calls of the compiled kernels, where they are made for its weights."""

from __future__ import annotations

from typing import Any, cast

import torch

from groat.kernels.layers import AdaptedLinear, CompiledLayers, DecoderLayer, DecoderShape, TreeTokens, can_compile
from groat.model.lora import Adapter, LayerAdapter, LoraPair
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear, Weights


def compiled_layers(spec: ModelSpec, weights: Weights, adapter: Adapter | None) -> CompiledLayers | None:
    """None where torch computes them, layer by layer."""
    adapters = [None] * spec.num_layers if adapter is None else adapter.layers
    layers = [
        _layer(layer, trained, is_rotated=index not in spec.unrotated_layers)
        for index, (layer, trained) in enumerate(zip(weights.layers, adapters, strict=True))
    ]
    if not can_compile(layers):
        return None
    shape = DecoderShape(
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        kv_storage=weights.kv_storage,
        norm_epsilon=spec.norm_epsilon,
        adapter_scale=0.0 if adapter is None else adapter.scale,
    )
    return CompiledLayers(layers, shape)


def _layer(weights: LayerWeights, adapter: LayerAdapter | None, *, is_rotated: bool) -> DecoderLayer:
    return DecoderLayer(
        qkv=_linear(weights.qkv, adapter and adapter.qkv),
        output=_linear(weights.output, adapter and adapter.output),
        gate_up=_linear(weights.gate_up, adapter and adapter.gate_up),
        down=_linear(weights.down, adapter and adapter.down),
        input_norm_H=weights.input_norm_H,
        mlp_norm_H=weights.mlp_norm_H,
        query_norm_D=weights.query_norm_D,
        key_norm_D=weights.key_norm_D,
        is_rotated=is_rotated,
    )


def _linear(base: Linear, pair: LoraPair | None) -> AdaptedLinear:
    if pair is None:
        return AdaptedLinear(base.weight_NK, base.bias_N)
    return AdaptedLinear(base.weight_NK, base.bias_N, pair.a_RK, pair.bs_NR)


class _CompiledLayer(torch.autograd.Function):
    """Saves what `layer_activation_bytes` counts, in one block."""

    @staticmethod
    def forward(
        ctx: Any,
        layers: CompiledLayers,
        index: int,
        tokens: TreeTokens,
        input_TH: torch.Tensor,
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        del trained  # they make the output differentiable; the kernels know where they are, and add to their gradients
        output_TH, kept = layers.forward(index, input_TH, tokens)
        ctx.save_for_backward(input_TH, kept)
        ctx.layers, ctx.index, ctx.tokens = layers, index, tokens
        return output_TH

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        input_TH, kept = ctx.saved_tensors
        grad_input_TH = ctx.layers.backward(
            ctx.index, input_TH, kept, grads[0], ctx.tokens, needs_input_grad=ctx.needs_input_grad[3]
        )
        return None, None, None, grad_input_TH, *(None for _ in ctx.needs_input_grad[4:])


def through_layers(
    layers: range, input_TH: torch.Tensor, compiled: CompiledLayers, adapter: Adapter | None, tokens: TreeTokens
) -> torch.Tensor:
    """The residual stream [T, H] after these layers; differentiable."""
    hidden_TH = input_TH
    for index in layers:
        if torch.is_grad_enabled() and adapter is not None:
            trained = tuple(adapter.layers[index].tensors())
            hidden_TH = cast(torch.Tensor, _CompiledLayer.apply(compiled, index, tokens, hidden_TH, *trained))
        else:
            hidden_TH, _ = compiled.forward(index, hidden_TH, tokens)
    return hidden_TH
