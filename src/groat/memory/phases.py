"""What a run holds in each of its phases, component by component."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from groat.memory.sizes import (
    adapter_bytes,
    entropy_gradient_bytes,
    forward_bytes,
    head_chunk_bytes,
    kv_bytes,
    layer_activation_bytes,
    layer_input_bytes,
    layer_workspace_bytes,
    optimizer_bytes,
    prefix_gradient_bytes,
    rows_bytes,
    scoring_bytes,
    value_model_bytes,
)
from groat.memory.workload import Workload
from groat.model.recompute import Recompute
from groat.model.spec import ModelSpec
from groat.types import KVStorage, Optim

REWARD_WORKERS = "reward workers"
"""The component that other processes hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How the sampler and the learner go about their work: what the plan can choose besides the weights' storage."""

    microbatch_tokens: int
    head_chunk_tokens: int
    recompute: Recompute | None
    max_concurrent: int
    prefill_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The adapter, a value model where there is one, and their optimizer."""

    rank: int
    optim: Optim
    value_rank: int = 0
    """Of the value model's adapter; 0: there is none."""

    @property
    def largest_rank(self) -> int:
        return max(self.rank, self.value_rank)

    def bytes(self, spec: ModelSpec) -> int:
        """Of the trained weights; their gradients take as much again."""
        return adapter_bytes(spec, self.rank) + value_model_bytes(spec, self.value_rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnCost:
    """Bytes that a micro-batch takes beside what is held anyway."""

    kept_per_token: int
    """From forward to backward."""
    prefix_per_token: int
    """Beside that, for what micro-batches share: keys and values, and their gradients."""
    workspace_per_token: int
    """While one layer, or a group of layers, is computed."""
    head_chunk: int
    """While the head is: never at the same time."""

    def of(self, tokens: int, num_shared: int = 0) -> int:
        """Of a micro-batch of so many tokens; `num_shared` of them are a prefix that others go on with."""
        return self.kept_per_token * tokens + self.prefix_per_token * num_shared + self.workspace(tokens)

    def workspace(self, tokens: int) -> int:
        return max(self.head_chunk, self.workspace_per_token * tokens)


def sample_bytes(spec: ModelSpec, work: Workload, way: Way, kv: KVStorage) -> dict[str, int]:
    """While sampling, beside what is always held."""
    prompts, drawn = work.live_prompt_tokens(way.max_concurrent), way.max_concurrent * work.completion
    prefill = min(way.prefill_tokens, work.num_prompts * work.prompt)
    copies = 5 if work.is_restricted else 1
    return {
        "kv": kv_bytes(spec, kv) * (prompts + drawn),
        "forward": forward_bytes(spec) * max(prefill, way.max_concurrent),
        "logits": copies * 4 * way.max_concurrent * spec.vocab_size,
    }


def learn_bytes(spec: ModelSpec, work: Workload, way: Way, trained: Trained, kv: KVStorage) -> dict[str, int]:
    """While learning, beside what is always held. A value model's activations come after the policy's, and take no
    more."""
    cost = learn_cost(spec, way, trained.largest_rank, kv, trains_entropy=work.trains_entropy)
    shared = work.prefix(way.microbatch_tokens)
    return _learn_bytes(way, trained.bytes(spec), cost, work.filled(way.microbatch_tokens), shared)


def prime_bytes(spec: ModelSpec, work: Workload, way: Way, rank: int, kv: KVStorage) -> dict[str, int]:
    """While worked examples are learned, beside what is always held."""
    tokens = work.filled_by_examples(way.microbatch_tokens)
    cost = learn_cost(spec, way, rank, kv)
    return _learn_bytes(way, adapter_bytes(spec, rank), cost, tokens, work.shared_prompt)


def _learn_bytes(way: Way, gradients: int, cost: LearnCost, tokens: int, shared: int) -> dict[str, int]:
    kept = "activations" if way.recompute is None else "layer inputs"
    return {
        "gradients": gradients,
        kept: cost.kept_per_token * tokens,
        **({"prefix": cost.prefix_per_token * shared} if shared else {}),
        "workspace": cost.workspace(tokens),
    }


def score_bytes(spec: ModelSpec, work: Workload, way: Way, rank: int, kv: KVStorage) -> dict[str, int]:
    """While log-probs are found that an algorithm asks for: a forward, a layer at a time, then the head."""
    tokens, shared = work.filled(way.microbatch_tokens), work.prefix(way.microbatch_tokens)
    return {
        "hidden states": rows_bytes(spec) * tokens,
        **({"prefix": kv_bytes(spec, kv) * shared} if shared else {}),
        "workspace": max(scoring_bytes(spec, rank) * tokens, head_chunk_bytes(spec, way.head_chunk_tokens)),
    }


def learn_cost(spec: ModelSpec, way: Way, rank: int, kv: KVStorage, *, trains_entropy: bool = False) -> LearnCost:
    """What a micro-batch takes, by its tokens."""
    layer, recompute = layer_activation_bytes(spec, rank), way.recompute
    return LearnCost(
        kept_per_token=rows_bytes(spec)
        + (entropy_gradient_bytes(spec) if trains_entropy else 0)
        + (spec.num_layers * layer if recompute is None else layer_input_bytes(spec, recompute)),
        prefix_per_token=kv_bytes(spec, kv) + prefix_gradient_bytes(spec),
        workspace_per_token=layer_workspace_bytes(spec)
        + (0 if recompute is None else min(recompute.every, spec.num_layers) * layer),
        # The entropy's gradient has two tensors of a chunk's size to itself.
        head_chunk=(3 if trains_entropy else 1) * head_chunk_bytes(spec, way.head_chunk_tokens),
    )


def phases(
    spec: ModelSpec,
    work: Workload,
    way: Way,
    *,
    weights: int,
    loading: int,
    trained: Trained,
    kv: KVStorage,
    spare: int = 0,
) -> Mapping[str, Mapping[str, int]]:
    """Phase -> component -> bytes, given the bytes of the frozen weights when stored and the most while loading.
    `spare`: what results are given beyond what they take at one time."""
    held = {
        "framework": work.process_bytes,
        "weights": weights,
        "adapter": adapter_bytes(spec, trained.rank),
        **({"value model": value_model_bytes(spec, trained.value_rank)} if trained.value_rank else {}),
        "optimizer": optimizer_bytes(trained.bytes(spec), trained.optim),
        **({"spare": spare} if spare else {}),
        **({REWARD_WORKERS: work.worker_bytes} if work.worker_bytes else {}),
    }
    primes = {"PRIME": held | prime_bytes(spec, work, way, trained.rank, kv)} if work.longest_example else {}
    if work.holds_primed_policy:
        held["reference"] = adapter_bytes(spec, trained.rank)
    return {
        "LOAD": {"framework": work.process_bytes, "weights": loading},
        **primes,
        "SAMPLE": held | sample_bytes(spec, work, way, kv),
        "SCORE": held | score_bytes(spec, work, way, trained.largest_rank, kv),
        "LEARN": held | learn_bytes(spec, work, way, trained, kv),
    }
