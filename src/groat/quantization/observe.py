"""What every frozen matrix sees on a text: its inputs, and how much the model's answer hangs on each of its outputs.

The checkpoint is read twice, a layer at a time, forwards and then backwards; between the two only the layers' inputs
are kept. So the largest model needs no more than one layer in fp32, or its head, and 4 bytes per token, layer and
hidden unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from groat.kernels.matrix import dense_of, rows_of
from groat.kernels.ops import product, straight_product, token_logprob_gradient_, token_logprobs
from groat.memory.sizes import HEAD_ROWS
from groat.model.attention import tree_attention
from groat.model.backward import with_gradient
from groat.model.checkpoint import WeightParts
from groat.model.decoder import decoder_layer
from groat.model.layers import Prepare, linear, rms_norm, rotation
from groat.model.lora import LoraPair
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear
from groat.trees import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedLinear:
    """A matrix of a layer at work."""

    name: str
    weight_NK: torch.Tensor
    input_TK: torch.Tensor
    grad_TN: torch.Tensor
    """Of the log-probability of a continuation drawn from the model itself, so that for a small change of the outputs
    half the mean of (grad . change)^2 is the KL in nats per token (the Fisher information is the KL's Hessian)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedHead:
    """The head, tied or not, with the final-normed hidden states that it reads."""

    weight_VH: torch.Tensor
    input_TH: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedEmbedding:
    """The embedding, with the rows that were looked up."""

    weight_VH: torch.Tensor
    token_ids_T: torch.Tensor
    grad_TH: torch.Tensor


Observed = ObservedHead | ObservedLinear | ObservedEmbedding


def observe(
    parts: WeightParts,
    spec: ModelSpec,
    sequences: Sequence[Sequence[int]],
    generator: torch.Generator,
    done: Callable[[], None] = lambda: None,
) -> Iterator[Observed]:
    """The head, the layers' matrices from the last layer to the first, the embedding.

    `done` is called 5 * num_layers times: for a layer forwards, for each of its matrices backwards. An observation's
    tensors are let go when the next is asked for.
    """
    text = PackedText.of(sequences, spec)
    inputs: list[torch.Tensor] = []
    hidden_TH = forward(parts, spec, text, done, inputs.append)
    head_VH = dense_of(parts.head())
    grad_TH, normed_TH = _head_gradient(hidden_TH, parts.final_norm(), head_VH, spec.norm_epsilon, generator)
    yield ObservedHead(weight_VH=head_VH, input_TH=normed_TH)
    del head_VH, normed_TH, hidden_TH
    for index in reversed(range(spec.num_layers)):
        grad_TH, seen = _backward(parts.layer(index), spec, index, inputs.pop(), grad_TH, text)
        while seen:
            yield seen.pop(0)
            done()
    yield ObservedEmbedding(weight_VH=dense_of(parts.embedding()), token_ids_T=text.token_ids_T, grad_TH=grad_TH)


class PackedText(NamedTuple):
    """Sequences laid one behind the other."""

    token_ids_T: torch.Tensor
    turns: tuple[torch.Tensor, torch.Tensor]
    nodes: Sequence[Node]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], spec: ModelSpec) -> PackedText:
        positions_T = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
        nodes: list[Node] = []
        for sequence in sequences:
            start = nodes[-1].end if nodes else 0
            nodes.append(Node(start, start + len(sequence), start + len(sequence), is_root=True))
        return cls(
            token_ids_T=torch.tensor([token for sequence in sequences for token in sequence]),
            turns=rotation(spec, positions_T, torch.float32),
            nodes=nodes,
        )

    def attend(
        self, _: int, queries_TAD: torch.Tensor, keys_TKD: torch.Tensor, values_TKD: torch.Tensor
    ) -> torch.Tensor:
        return tree_attention(queries_TAD, keys_TKD, values_TKD, self.nodes)


@torch.no_grad()
def forward(
    parts: WeightParts,
    spec: ModelSpec,
    text: PackedText,
    done: Callable[[], None],
    keep_input: Callable[[torch.Tensor], None] = lambda _: None,
) -> torch.Tensor:
    """The last layer's output; each layer is read when it is needed, and let go."""
    hidden_TH = rows_of(parts.embedding(), text.token_ids_T)
    for index in range(spec.num_layers):
        keep_input(hidden_TH)
        layer = parts.layer(index)
        hidden_TH = decoder_layer(spec, hidden_TH, index, layer, None, 0.0, text.turns, text.attend)
        done()
    return hidden_TH


def _head_gradient(
    hidden_TH: torch.Tensor,
    final_norm_H: torch.Tensor,
    head_VH: torch.Tensor,
    epsilon: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the drawn tokens' log-probs with respect to the last layer's output; and what the head reads."""
    hidden_TH = hidden_TH.requires_grad_()
    normed_TH = rms_norm(hidden_TH, final_norm_H, epsilon)
    grad_normed_TH = torch.empty_like(normed_TH)
    with torch.no_grad():
        for rows in torch.arange(len(hidden_TH)).split(HEAD_ROWS):
            logits_CV = product(normed_TH[rows], head_VH)
            drawn_C = logits_CV.softmax(-1).multinomial(1, generator=generator)[:, 0]
            lse_C = token_logprobs(logits_CV.clone(), drawn_C).lse_C
            token_logprob_gradient_(logits_CV, drawn_C, lse_C, torch.ones(len(rows)))
            grad_normed_TH[rows] = straight_product(logits_CV, head_VH)
    (grad_TH,) = torch.autograd.grad(with_gradient(normed_TH, grad_normed_TH), hidden_TH)
    return grad_TH, normed_TH.detach()


def _backward(
    layer: LayerWeights, spec: ModelSpec, index: int, hidden_TH: torch.Tensor, grad_TH: torch.Tensor, text: PackedText
) -> tuple[torch.Tensor, list[ObservedLinear]]:
    """The gradient of the layer's input, and its four matrices at work."""
    watch = _Watch()
    with torch.enable_grad():
        hidden_TH = hidden_TH.requires_grad_()
        output_TH = decoder_layer(spec, hidden_TH, index, layer, None, 0.0, text.turns, text.attend, watch.linear)
        outputs = [used.output_TN for used in watch.used]
        grad_TH, *grads = torch.autograd.grad(with_gradient(output_TH, grad_TH), [hidden_TH, *outputs])
    names = {id(getattr(layer, name)): f"layers.{index}.{name}" for name in ("qkv", "output", "gate_up", "down")}
    seen = [
        ObservedLinear(
            name=names[id(used.base)], weight_NK=dense_of(used.base.weight_NK), input_TK=used.input_TK, grad_TN=grad_TN
        )
        for used, grad_TN in zip(watch.used, grads, strict=True)
    ]
    return grad_TH, seen


class _Used(NamedTuple):
    base: Linear
    input_TK: torch.Tensor
    output_TN: torch.Tensor


class _Watch:
    """Linear layers that remember what went in and came out."""

    def __init__(self) -> None:
        self.used: list[_Used] = []

    def linear(
        self, input_TI: torch.Tensor, base: Linear, pair: LoraPair | None, scale: float, prepare: Prepare | None
    ) -> torch.Tensor:
        output_TN = linear(input_TI, base, pair, scale, prepare)
        with torch.no_grad():
            input_TK = input_TI.detach() if prepare is None else prepare(input_TI.detach())
        self.used.append(_Used(base, input_TK, output_TN))
        return output_TN
