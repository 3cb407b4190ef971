"""The frozen base weights, stored once and shared by sampler and learner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from groat.kernels.matrix import Matrix, computed_in, tensors_of
from groat.types import Compute, KVStorage


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A frozen linear layer; fused ones hold their parts one below the other."""

    weight_NK: Matrix
    bias_N: torch.Tensor | None = None

    def computed_in(self, compute: Compute) -> Linear:
        return replace(self, weight_NK=computed_in(self.weight_NK, compute))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """One decoder layer. `qkv` stacks query, key and value; `gate_up` stacks gate and up."""

    input_norm_H: torch.Tensor
    qkv: Linear
    query_norm_D: torch.Tensor | None
    key_norm_D: torch.Tensor | None
    output: Linear
    mlp_norm_H: torch.Tensor
    gate_up: Linear
    down: Linear

    def computed_in(self, compute: Compute) -> LayerWeights:
        return replace(
            self,
            qkv=self.qkv.computed_in(compute),
            output=self.output.computed_in(compute),
            gate_up=self.gate_up.computed_in(compute),
            down=self.down.computed_in(compute),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All of a model's tensors. With a tied head, `head_VH` is `embedding_VH`."""

    embedding_VH: Matrix
    layers: tuple[LayerWeights, ...]
    final_norm_H: torch.Tensor
    head_VH: Matrix
    kv_storage: KVStorage = "f32"
    """How the keys and values computed with these are kept."""

    @property
    def dtype(self) -> torch.dtype:
        """What hidden states and keys are computed in."""
        return self.final_norm_H.dtype

    def computed_in(self, compute: Compute) -> Weights:
        """The same tensors; products with quantized ones are computed in `compute`."""
        head_VH = computed_in(self.head_VH, compute)
        is_tied = self.head_VH is self.embedding_VH
        return replace(
            self,
            embedding_VH=head_VH if is_tied else self.embedding_VH,
            layers=tuple(layer.computed_in(compute) for layer in self.layers),
            head_VH=head_VH,
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every distinct tensor, for counting bytes."""
        yield from tensors_of(self.embedding_VH)
        if self.head_VH is not self.embedding_VH:
            yield from tensors_of(self.head_VH)
        yield self.final_norm_H
        for layer in self.layers:
            yield layer.input_norm_H
            yield layer.mlp_norm_H
            yield from (norm for norm in (layer.query_norm_D, layer.key_norm_D) if norm is not None)
            for linear in (layer.qkv, layer.output, layer.gate_up, layer.down):
                yield from tensors_of(linear.weight_NK)
                if linear.bias_N is not None:
                    yield linear.bias_N
