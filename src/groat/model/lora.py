"""The trained adapter: LoRA (arXiv:2106.09685) on every linear layer, applied beside the base and never merged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from groat.config.tree import LoraConfig
from groat.model.modules import Module, linear_modules
from groat.model.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPair:
    """The adapter of one fused linear layer: the A's of its parts stacked, one B per part.

    For P parts of rank r: a_RK is [P*r, in_features], bs_NR[i] is [out_features of part i, r].
    """

    a_RK: torch.Tensor
    bs_NR: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAdapter:
    """The adapters of one decoder layer; parts in the order of the fused base weights."""

    qkv: LoraPair
    output: LoraPair
    gate_up: LoraPair
    down: LoraPair

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every trained tensor of the layer."""
        for pair in (self.qkv, self.output, self.gate_up, self.down):
            yield pair.a_RK
            yield from pair.bs_NR


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The policy: the trained weights (fp32) at one version. `None` in place of an Adapter is the reference policy."""

    version: int
    config: LoraConfig
    layers: tuple[LayerAdapter, ...]

    @property
    def scale(self) -> float:
        return self.config.lora_alpha / self.config.r

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Every trained tensor by a name such as `layers.3.qkv.a` or `layers.3.qkv.b.0`, in a fixed order."""
        named: dict[str, torch.Tensor] = {}
        for index, layer in enumerate(self.layers):
            for name in ("qkv", "output", "gate_up", "down"):
                pair: LoraPair = getattr(layer, name)
                named[f"layers.{index}.{name}.a"] = pair.a_RK
                for part, b_NR in enumerate(pair.bs_NR):
                    named[f"layers.{index}.{name}.b.{part}"] = b_NR
        return named


def copy_of(adapter: Adapter) -> Adapter:
    """The same numbers in tensors of its own, which nothing trains."""

    def pair(old: LoraPair) -> LoraPair:
        return LoraPair(a_RK=old.a_RK.detach().clone(), bs_NR=tuple(b_NR.detach().clone() for b_NR in old.bs_NR))

    layers = [
        LayerAdapter(qkv=pair(old.qkv), output=pair(old.output), gate_up=pair(old.gate_up), down=pair(old.down))
        for old in adapter.layers
    ]
    return replace(adapter, layers=tuple(layers))


def new_adapter(spec: ModelSpec, config: LoraConfig, generator: torch.Generator) -> Adapter:
    """A's uniform in PEFT's way (Kaiming with a = sqrt 5), B's zero: a new adapter changes nothing."""

    def pair(parts: Sequence[Module]) -> LoraPair:
        bound = 1 / math.sqrt(parts[0].num_in)
        a_RK = torch.empty(len(parts) * config.r, parts[0].num_in)
        a_RK.uniform_(-bound, bound, generator=generator)
        bs_NR = tuple(torch.zeros(part.num_out, config.r) for part in parts)
        for tensor in (a_RK, *bs_NR):
            tensor.requires_grad_(True)
        return LoraPair(a_RK=a_RK, bs_NR=bs_NR)

    def layer() -> LayerAdapter:
        return LayerAdapter(**{name: pair(parts) for name, parts in linear_modules(spec).items()})

    return Adapter(version=0, config=config, layers=tuple(layer() for _ in range(spec.num_layers)))
