"""The decoder: one forward over flat tokens, for prefill, decode and training alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from groat.kernels.layers import CompiledLayers, TreeTokens
from groat.kernels.matrix import rows_of
from groat.kernels.native import native_for
from groat.kernels.prefix import Prefix
from groat.model.attention import tree_attention
from groat.model.compiled import compiled_layers, through_layers
from groat.model.layers import Prepare, linear, rms_norm, rotate, rotation, swiglu
from groat.model.lora import Adapter, LayerAdapter, LoraPair
from groat.model.recompute import Recompute
from groat.model.recomputed import recomputed
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear, Weights
from groat.trees import Node
from groat.types import KVStorage

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [T, A, D], keys [T, K, D], values [T, K, D]) -> attention output [T, A, D]."""
Apply = Callable[[torch.Tensor, Linear, LoraPair | None, float, Prepare | None], torch.Tensor]
"""A linear layer of what `Prepare` makes of its input: `linear`, or something that watches it."""


class Decoder:
    """A frozen base model. The policy is an argument: an Adapter, or None for the reference policy."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self.spec = spec
        self.weights = weights
        self._compiled: list[tuple[Sequence[LayerAdapter] | None, CompiledLayers]] = []
        """For one adapter and for none."""

    def hidden(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        attend: Attend,
        adapter: Adapter | None,
        *,
        recompute: Recompute | None = None,
    ) -> torch.Tensor:
        """The residual stream [T, H] after the last layer, before the final norm.

        With `recompute`, only the input of some layers at a time is kept, and they are computed again in backward.
        """
        turns = rotation(self.spec, positions_T, self.weights.dtype)
        run = partial(self._layers, adapter=adapter, turns=turns, attend=attend)
        return self._through(run, rows_of(self.weights.embedding_VH, token_ids_T), adapter, recompute)

    def hidden_of_trees(
        self,
        token_ids_T: torch.Tensor,
        positions_T: torch.Tensor,
        nodes: Sequence[Node],
        adapter: Adapter | None,
        *,
        recompute: Recompute | None = None,
        before: Prefix | None = None,
        made: Prefix | None = None,
    ) -> torch.Tensor:
        """`hidden`, every token attending over its ancestors and itself: a layer in one call where it is compiled.

        The roots come after `before`, if that is given, and backward adds to its gradients; the tokens are what `made`
        remembers, and its gradients join in their backward.
        """
        compiled = self.compiled(adapter)
        if compiled is None or not nodes:
            kv_storage = self.weights.kv_storage
            attend = partial(_attend_trees, nodes=nodes, kv_storage=kv_storage, before=before, made=made)
            return self.hidden(token_ids_T, positions_T, attend, adapter, recompute=recompute)
        tokens = TreeTokens(rotation(self.spec, positions_T, self.weights.dtype), nodes, before, made)
        run = partial(through_layers, compiled=compiled, adapter=adapter, tokens=tokens)
        return self._through(run, rows_of(self.weights.embedding_VH, token_ids_T), adapter, recompute)

    def prefix(self, num_tokens: int, *, learns: bool) -> Prefix:
        """Room for a beginning that micro-batches share; `learns`: and for the gradients they find."""
        spec = self.spec
        shape = (spec.num_layers, num_tokens, spec.num_kv_heads, spec.head_dim)
        return Prefix.empty(shape, self.weights.kv_storage, self.weights.dtype, learns=learns)

    def compiled(self, adapter: Adapter | None) -> CompiledLayers | None:
        """The layers as the compiled kernels take them, made once; None where torch computes them."""
        layers = None if adapter is None else adapter.layers
        if native_for() is None:
            return None
        if (found := next((made for of, made in self._compiled if of is layers), None)) is not None:
            return found
        made = compiled_layers(self.spec, self.weights, adapter)
        if made is not None:
            others = [one for one in self._compiled if (one[0] is None) != (layers is None)]
            self._compiled = [*others, (layers, made)]
        return made

    def final_norm(self, hidden_XH: torch.Tensor) -> torch.Tensor:
        """What the head reads."""
        return rms_norm(hidden_XH, self.weights.final_norm_H, self.spec.norm_epsilon)

    def _through(
        self,
        run: Callable[[range, torch.Tensor], torch.Tensor],
        hidden_TH: torch.Tensor,
        adapter: Adapter | None,
        recompute: Recompute | None,
    ) -> torch.Tensor:
        """All layers by `run`, some at a time with `recompute`."""
        if recompute is None or adapter is None:
            return run(range(self.spec.num_layers), hidden_TH)
        for first in range(0, self.spec.num_layers, recompute.every):
            some = range(first, min(first + recompute.every, self.spec.num_layers))
            trained = [tensor for index in some for tensor in adapter.layers[index].tensors()]
            hidden_TH = recomputed(partial(run, some), hidden_TH, trained, recompute.saved_inputs)
        return hidden_TH

    def _layers(
        self,
        layers: range,
        hidden_TH: torch.Tensor,
        adapter: Adapter | None,
        turns: tuple[torch.Tensor, torch.Tensor],
        attend: Attend,
    ) -> torch.Tensor:
        for index in layers:
            trained, scale = (None, 0.0) if adapter is None else (adapter.layers[index], adapter.scale)
            layer = self.weights.layers[index]
            hidden_TH = decoder_layer(self.spec, hidden_TH, index, layer, trained, scale, turns, attend)
        return hidden_TH


def decoder_layer(
    spec: ModelSpec,
    hidden_TH: torch.Tensor,
    index: int,
    layer: LayerWeights,
    adapter: LayerAdapter | None,
    scale: float,
    turns: tuple[torch.Tensor, torch.Tensor],
    attend: Attend,
    apply: Apply = linear,
) -> torch.Tensor:
    """The residual stream after one layer; every linear layer goes through `apply`."""
    queries, keys, values = _qkv(spec, hidden_TH, layer, adapter, scale, apply)
    if index in spec.unrotated_layers:
        queries, keys = queries.contiguous(), keys.contiguous()
    else:
        queries, keys = rotate(queries, *turns), rotate(keys, *turns)
    mixed_TN = attend(index, queries, keys, values).flatten(1)
    hidden_TH = apply(mixed_TN, layer.output, adapter and adapter.output, scale, None).add_(hidden_TH)
    normed = partial(rms_norm, weight_H=layer.mlp_norm_H, epsilon=spec.norm_epsilon)
    gate_up_TI = apply(hidden_TH, layer.gate_up, adapter and adapter.gate_up, scale, normed)
    return apply(gate_up_TI, layer.down, adapter and adapter.down, scale, swiglu).add_(hidden_TH)


def _qkv(
    spec: ModelSpec,
    hidden_TH: torch.Tensor,
    layer: LayerWeights,
    adapter: LayerAdapter | None,
    scale: float,
    apply: Apply,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries and keys before they are turned to their positions, and values."""
    normed = partial(rms_norm, weight_H=layer.input_norm_H, epsilon=spec.norm_epsilon)
    qkv_TN = apply(hidden_TH, layer.qkv, adapter and adapter.qkv, scale, normed)
    qkv_TAD = qkv_TN.unflatten(1, (-1, spec.head_dim))
    queries, keys, values = qkv_TAD.split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1)
    if layer.query_norm_D is not None and layer.key_norm_D is not None:
        queries = rms_norm(queries, layer.query_norm_D, spec.norm_epsilon)
        keys = rms_norm(keys, layer.key_norm_D, spec.norm_epsilon)
    # A copy of the values, so that what attention saves does not hold all of qkv.
    return queries, keys, values.contiguous()


def _attend_trees(
    layer: int,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    nodes: Sequence[Node],
    kv_storage: KVStorage,
    before: Prefix | None,
    made: Prefix | None,
) -> torch.Tensor:
    prefixes = [None if prefix is None else prefix.layers[layer] for prefix in (before, made)]
    return tree_attention(queries, keys, values, nodes, kv_storage, *prefixes)
