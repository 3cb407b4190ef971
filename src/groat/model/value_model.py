"""The value model: the frozen trunk with a small adapter of its own, and a head that makes one number of a state."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from groat.config.tree import LoraConfig
from groat.model.lora import Adapter, new_adapter
from groat.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueModel:
    """What is trained of it, in fp32."""

    adapter: Adapter
    weight_H: torch.Tensor
    bias: torch.Tensor
    """A scalar."""

    def values(self, rows_NH: torch.Tensor) -> torch.Tensor:
        """[N], of final-normed hidden states that the adapter has had its part in; differentiable."""
        return rows_NH @ self.weight_H + self.bias

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Every trained tensor, the adapter's by their names there, in a fixed order."""
        return {**self.adapter.named_tensors(), "head.weight": self.weight_H, "head.bias": self.bias}


def new_value_model(spec: ModelSpec, config: LoraConfig, generator: torch.Generator) -> ValueModel:
    """One that expects 0 of every state."""
    return ValueModel(
        adapter=new_adapter(spec, config, generator),
        weight_H=torch.zeros(spec.hidden_size, requires_grad=True),
        bias=torch.zeros((), requires_grad=True),
    )
