"""How memory will be spent: what the user asked for becomes a MemoryPlan.

A guard and offload are not there yet, so a budget is planned for and reported, but not enforced while the run goes
on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from groat.config.sizes import parse_size
from groat.config.tree import RunConfig
from groat.memory.sizes import (
    FRAMEWORK,
    adapter_bytes,
    head_chunk_bytes,
    kv_bytes,
    layer_activation_bytes,
    layer_input_bytes,
    layer_workspace_bytes,
    loading_bytes,
    weight_bytes,
)
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import StorageKind, UserError

_MICROBATCHES = (4096, 2048, 1024, 768, 512, 384, 256)
_KINDS: tuple[StorageKind, ...] = ("f32", "bf16", "int8", "nf4")
_STORAGE_REASONS: Mapping[StorageKind, str] = {
    "f32": "the frozen weights exactly as they are computed with",
    "bf16": "half the bytes of fp32; most checkpoints lose nothing",
    "int8": "a quarter of fp32, one scale per output; a rounding far below the sampling noise",
    "nf4": "QLoRA: about an eighth of fp32, embedding and head in int8",
}
_SHARED_TOKENS = 256
"""Tokens that every micro-batch computes again: a prompt and the prefix it shares with others, as a typical length."""
_ALWAYS_MODEST = 640 * 2**20
"""Bytes of activations not worth stinting on, however small the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What was decided, and the bytes it is expected to take: phase -> component -> bytes."""

    storage: Storage
    microbatch_tokens: int
    head_chunk_tokens: int
    checkpoint_layers: bool
    max_concurrent: int
    phases: Mapping[str, Mapping[str, int]]

    @property
    def choices(self) -> dict[str, str]:
        """What was decided, each with its reason in a line."""
        kept = "all activations kept for backward: no layer is computed twice"
        again = "only layer inputs kept, each layer computed again in backward: a third slower, least memory"
        return {
            "storage": f"{self.storage.layers}: {_STORAGE_REASONS[self.storage.layers]}",
            "gradient_checkpointing": again if self.checkpoint_layers else kept,
            "microbatch_tokens": f"{self.microbatch_tokens} tokens: a larger one computes shared prompts less often",
            "head_chunk_tokens": f"{self.head_chunk_tokens} tokens have logits at one time; the loss needs no more",
            "max_concurrent": f"{self.max_concurrent} sequences sampled side by side: more is faster, each holds KV",
        }

    @property
    def peak_bytes(self) -> int:
        return max(sum(components.values()) for components in self.phases.values())

    def to_json(self) -> str:
        """The plan as it is kept in a run's folder."""
        return json.dumps({**asdict(self), "peak_bytes": self.peak_bytes}, indent=2) + "\n"


def plan_memory(config: RunConfig, spec: ModelSpec) -> MemoryPlan:
    """The fastest plan with the most exact weights that fits the budget; without a budget, the fastest whose
    activations take no more than the weights, or than 640 MiB.

    UserError with the smallest budget that can be kept, if this one cannot.
    """
    kinds = _kinds(config)
    if config.memory.budget is None:
        # Nobody asked for less than exact weights.
        plans = list(_candidates(config, spec, kinds[:1]))
        modest = max(weight_bytes(spec), _ALWAYS_MODEST)
        return next((plan for plan in plans if _activations(plan) <= modest), plans[-1])
    budget = parse_size(config.memory.budget)
    fitting = next((plan for plan in _candidates(config, spec, kinds) if plan.peak_bytes <= budget), None)
    if fitting is None:
        smallest = smallest_budget(config, spec)
        raise UserError(
            f"memory.budget {config.memory.budget} cannot be kept: the smallest that can is "
            f"{math.ceil(smallest / 2**30 * 100) / 100:.2f}GiB. Shorter completions (sampling.max_completion_length), "
            "fewer of them side by side (sampling.max_concurrent), a smaller lora.r or a smaller model lower it"
        )
    return fitting


def smallest_budget(config: RunConfig, spec: ModelSpec) -> int:
    """Bytes of the smallest budget that can be planned for."""
    return min(plan.peak_bytes for plan in _candidates(config, spec, _kinds(config)))


def _kinds(config: RunConfig) -> tuple[StorageKind, ...]:
    """The storage kinds that may be chosen, the most exact first."""
    return _KINDS if config.memory.storage is None else (config.memory.storage,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frozen:
    """The frozen weights in one kind: the same for every plan that stores them so."""

    storage: Storage
    held: int
    loading: int


def _candidates(config: RunConfig, spec: ModelSpec, kinds: Sequence[StorageKind]) -> Iterator[MemoryPlan]:
    """From best to smallest: exact weights before rounded ones, then all sequences at once before few; see `_cost` for
    the learner's part."""
    asked, kept = config.memory.microbatch_tokens, config.memory.gradient_checkpointing
    sizes = _MICROBATCHES if asked is None else (asked,)
    ways = [(tokens, again) for again in ((False, True) if kept is None else (kept,)) for tokens in sizes]
    for storage in map(Storage.of, kinds):
        frozen = _Frozen(storage=storage, held=weight_bytes(spec, storage), loading=loading_bytes(spec, storage))
        for concurrent in _sequences_at_once(config):
            for tokens, checkpoint_layers in sorted(ways, key=lambda way: _cost(*way)):
                yield _plan(config, spec, frozen, tokens, checkpoint_layers, concurrent)


def _sequences_at_once(config: RunConfig) -> Iterator[int]:
    concurrent = min(config.sampling.max_concurrent, _most_sequences(config))
    while concurrent > 8:
        yield concurrent
        concurrent //= 2
    yield concurrent


def _cost(tokens: int, checkpoint_layers: bool) -> float:
    """Forward-sized passes per trained token. With a frozen base, backward costs as much as forward."""
    passes = 3 if checkpoint_layers else 2
    return passes * (1 + _SHARED_TOKENS / tokens)


def _plan(
    config: RunConfig, spec: ModelSpec, frozen: _Frozen, tokens: int, checkpoint_layers: bool, concurrent: int
) -> MemoryPlan:
    adapter = adapter_bytes(spec, config.lora.r)
    held = {
        "framework": FRAMEWORK,
        "weights": frozen.held,
        "adapter": adapter,
        "optimizer": 2 * adapter,
    }
    layers_kept = 1 if checkpoint_layers else spec.num_layers
    chunk = config.memory.head_chunk_tokens
    sample = {
        "kv": kv_bytes(spec) * concurrent * config.sampling.max_completion_length,
        "logits": 3 * 4 * concurrent * spec.vocab_size,
    }
    learn = {
        "gradients": adapter,
        "layer inputs": layer_input_bytes(spec) * tokens if checkpoint_layers else 0,
        "activations": (layers_kept * layer_activation_bytes(spec) + layer_workspace_bytes(spec)) * tokens,
        "head": head_chunk_bytes(spec, chunk),
    }
    load = {"framework": FRAMEWORK, "weights": frozen.loading}
    return MemoryPlan(
        storage=frozen.storage,
        microbatch_tokens=tokens,
        head_chunk_tokens=chunk,
        checkpoint_layers=checkpoint_layers,
        max_concurrent=concurrent,
        phases={"LOAD": load, "SAMPLE": held | sample, "LEARN": held | learn},
    )


def _activations(plan: MemoryPlan) -> int:
    return plan.phases["LEARN"]["layer inputs"] + plan.phases["LEARN"]["activations"]


def _most_sequences(config: RunConfig) -> int:
    """More sequences than a step or an evaluation has are never decoded."""
    evaluated = config.evaluation.num_problems * config.evaluation.num_samples
    return max(config.training.generation_batch_size, evaluated)
