"""Tiny random decoders made in memory, in fp32 or float64, with samples and a tokenizer of letters to go with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from groat.config.tree import LoraConfig
from groat.kernels.ops import product
from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.model.lora import Adapter, LayerAdapter, LoraPair, new_adapter
from groat.model.spec import ModelSpec
from groat.model.weights import LayerWeights, Linear, Weights
from groat.trees import Node
from groat.types import Completion, FinishReason, Problem, Prompt, Sample

LETTERS = "abcdefghijklmnopqrstuvwxyz .,"
NUM_TOKENS = len(LETTERS)


def tiny_spec(**changes: object) -> ModelSpec:
    spec = ModelSpec(
        family="llama",
        num_layers=2,
        hidden_size=16,
        intermediate_size=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=6,
        vocab_size=NUM_TOKENS,
        norm_epsilon=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        tied_head=False,
        qkv_bias=True,
        output_bias=False,
        mlp_bias=False,
        qk_norm=True,
        max_context=512,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def tiny_decoder(
    spec: ModelSpec | None = None, *, dtype: torch.dtype = torch.float32, seed: int = 0, kind: type[Decoder] = Decoder
) -> Decoder:
    """Weights large enough that attention, norms and biases all matter to the logits."""
    spec = spec or tiny_spec()
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float) -> torch.Tensor:
        # Drawn in float64 whatever the dtype, so that both have the same model.
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    def linear(rows: int, columns: int, bias: bool = False) -> Linear:
        return Linear(
            weight_NK=random(rows, columns, scale=1.5 / columns**0.5), bias_N=random(rows, scale=0.3) if bias else None
        )

    def layer() -> LayerWeights:
        return LayerWeights(
            input_norm_H=1 + random(spec.hidden_size, scale=0.2),
            qkv=linear(spec.query_size + 2 * spec.kv_size, spec.hidden_size, spec.qkv_bias),
            query_norm_D=1 + random(spec.head_dim, scale=0.2) if spec.qk_norm else None,
            key_norm_D=1 + random(spec.head_dim, scale=0.2) if spec.qk_norm else None,
            output=linear(spec.hidden_size, spec.query_size, spec.output_bias),
            mlp_norm_H=1 + random(spec.hidden_size, scale=0.2),
            gate_up=linear(2 * spec.intermediate_size, spec.hidden_size, spec.mlp_bias),
            down=linear(spec.hidden_size, spec.intermediate_size, spec.mlp_bias),
        )

    weights = Weights(
        embedding_VH=random(spec.vocab_size, spec.hidden_size, scale=1.0),
        layers=tuple(layer() for _ in range(spec.num_layers)),
        final_norm_H=1 + random(spec.hidden_size, scale=0.2),
        head_VH=random(spec.vocab_size, spec.hidden_size, scale=1.2 / spec.hidden_size**0.5),
    )
    return kind(spec, weights)


def tiny_adapter(
    spec: ModelSpec | None = None, *, dtype: torch.dtype = torch.float32, r: int = 3, seed: int = 0, size: float = 0.1
) -> Adapter:
    """An adapter that has been trained already: no B is zero."""
    adapter = new_adapter(spec or tiny_spec(), LoraConfig(r=r, lora_alpha=5.0), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)

    def moved(pair: LoraPair) -> LoraPair:
        bs = [b.detach().double() + size * torch.randn(b.shape, generator=generator).double() for b in pair.bs_NR]
        return LoraPair(
            a_RK=pair.a_RK.detach().to(dtype, copy=True).requires_grad_(),
            bs_NR=tuple(b.to(dtype).requires_grad_() for b in bs),
        )

    layers = [
        LayerAdapter(
            qkv=moved(layer.qkv), output=moved(layer.output), gate_up=moved(layer.gate_up), down=moved(layer.down)
        )
        for layer in adapter.layers
    ]
    return replace(adapter, layers=tuple(layers))


def copied(adapter: Adapter) -> Adapter:
    """The same numbers in tensors of its own."""

    def pair(old: LoraPair) -> LoraPair:
        a_RK, *bs_NR = (tensor.detach().clone().requires_grad_() for tensor in (old.a_RK, *old.bs_NR))
        return LoraPair(a_RK=a_RK, bs_NR=tuple(bs_NR))

    layers = [
        LayerAdapter(qkv=pair(old.qkv), output=pair(old.output), gate_up=pair(old.gate_up), down=pair(old.down))
        for old in adapter.layers
    ]
    return replace(adapter, layers=tuple(layers))


def all_logits(decoder: Decoder, token_ids: Sequence[int], adapter: Adapter | None = None) -> torch.Tensor:
    """Logits [T, V] of one sequence, computed whole: no cache, no tree."""
    length = len(token_ids)
    hidden_TH = decoder.hidden(
        torch.tensor(token_ids),
        torch.arange(length),
        lambda _, queries, keys, values: tree_attention(queries, keys, values, (Node(0, length, length, True),)),
        adapter,
    )
    return product(decoder.final_norm(hidden_TH), decoder.weights.head_VH)


def prompt_of(token_ids: Iterable[int], name: str = "p") -> Prompt:
    return Prompt(problem=Problem(id=name, prompt="?"), token_ids=tuple(token_ids))


def completion_of(token_ids: Iterable[int], logprob: float = -1.0, **changes: object) -> Completion:
    token_ids = tuple(token_ids)
    completion = Completion(
        token_ids=token_ids,
        sampler_logprobs=(logprob,) * len(token_ids),
        policy_logprobs=(logprob,) * len(token_ids),
        text="",
        finish_reason=FinishReason.STOP,
        policy_version=0,
    )
    return replace(completion, **changes)  # type: ignore[arg-type]


def sample_of(prompt: Iterable[int], completion: Iterable[int], advantage: float = 1.0) -> Sample:
    completion = tuple(completion)
    return Sample(
        prompt=prompt_of(prompt), completion=completion_of(completion), advantages=(advantage,) * len(completion)
    )


class LetterTokenizer:
    """One token per letter; those in `stops` end a completion and have no text."""

    def __init__(self, stops: Iterable[int] = (), pieces: Sequence[str] = tuple(LETTERS)) -> None:
        self.stop_token_ids = frozenset(stops)
        self.pieces = pieces
        self.vocab_size = len(pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids if i not in self.stop_token_ids)
