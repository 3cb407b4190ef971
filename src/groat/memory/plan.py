"""How memory will be spent: what the user asked for becomes a MemoryPlan. guard.py keeps to it while a run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from groat.config.sizes import parse_size
from groat.config.tree import MemoryConfig, RunConfig, SavedInputs
from groat.memory.measure import available_bytes, gib, resident_bytes
from groat.memory.phases import LearnCost, Way, learn_cost, phases
from groat.memory.sizes import loading_bytes, weight_bytes
from groat.memory.workload import Workload
from groat.model.recompute import Recompute
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import StorageKind, UserError

_MICROBATCHES = (4096, 2048, 1024, 768, 512, 384, 256)
_KINDS: tuple[StorageKind, ...] = ("f32", "bf16", "int8", "nf4")
_STORAGE_REASONS: Mapping[StorageKind, str] = {
    "f32": "the frozen weights exactly as they are computed with",
    "bf16": "half the bytes of fp32; most checkpoints lose nothing",
    "int8": "a quarter of fp32, a scale for 64 weights; a rounding far below the sampling noise",
    "nf4": "QLoRA: about an eighth of fp32, embedding and head in int8",
}
_ALWAYS_MODEST = 640 * 2**20
"""Bytes of activations not worth stinting on, however small the model."""
_LOWER = (
    "Shorter completions (sampling.max_completion_length), a smaller lora.r or a smaller model lower it; so do "
    "memory.storage nf4, memory.gradient_checkpointing true and a smaller memory.microbatch_tokens, where others were "
    "asked for"
)
_PREFILLS = (2048, 512)
_MARGIN, _LEAST_MARGIN = 0.04, 24 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What was decided, and the bytes it is expected to take: phase -> component -> bytes."""

    storage: Storage
    way: Way
    learn_cost: LearnCost
    phases: Mapping[str, Mapping[str, int]]

    @property
    def choices(self) -> dict[str, str]:
        """What was decided, each with its reason in a line."""
        way = self.way
        return {
            "storage": f"{self.storage.layers}: {_STORAGE_REASONS[self.storage.layers]}",
            "gradient_checkpointing": _recompute_words(way.recompute),
            "microbatch_tokens": f"{way.microbatch_tokens} tokens: a larger one computes shared prompts less often",
            "head_chunk_tokens": f"{way.head_chunk_tokens} tokens have logits at one time; the loss needs no more",
            "max_concurrent": f"{way.max_concurrent} sequences sampled side by side: more is faster, each holds KV",
            "prefill_tokens": f"{way.prefill_tokens} prompt tokens computed in one forward",
        }

    @property
    def peak_bytes(self) -> int:
        return max(sum(components.values()) for components in self.phases.values())

    @property
    def needed_bytes(self) -> int:
        """The budget that this plan needs: what is predicted, and a margin for what no formula sees."""
        return self.peak_bytes + max(_LEAST_MARGIN, round(_MARGIN * self.peak_bytes))

    def to_json(self) -> str:
        """The plan as it is kept in a run's folder."""
        return json.dumps({**asdict(self), "peak_bytes": self.peak_bytes}, indent=2) + "\n"


def plan_memory(config: RunConfig, spec: ModelSpec, work: Workload | None = None) -> MemoryPlan:
    """The fastest plan with the most exact weights that fits the budget; without a budget, the fastest whose
    activations take no more than the weights, or than 640 MiB.

    `work` None: prompts of a usual length. UserError with the smallest budget that can be kept, if this one cannot.
    """
    work = Workload.of(config) if work is None else work
    kinds = _kinds(config)
    if config.memory.budget is None:
        # Nobody asked for less than exact weights.
        plans = list(_candidates(config, spec, work, kinds[:1]))
        modest = max(plans[0].phases["LEARN"]["weights"], _ALWAYS_MODEST)
        return next((plan for plan in plans if _activations(plan) <= modest), plans[-1])
    budget = parse_size(config.memory.budget)
    fitting = next((plan for plan in _candidates(config, spec, work, kinds) if plan.needed_bytes <= budget), None)
    if fitting is None:
        smallest = smallest_budget(config, spec, work)
        raise UserError(
            f"memory.budget {config.memory.budget} cannot be kept: the smallest that can is "
            f"{math.ceil(smallest / 2**30 * 100) / 100:.2f}GiB. {_LOWER}"
        )
    return fitting


def plan_for_machine(config: RunConfig, spec: ModelSpec, work: Workload) -> MemoryPlan:
    """`plan_memory`, on a machine that has only so much left: without a budget, what is left is the budget.

    UserError where not even that can be kept, or where the budget promises more than the machine has.
    """
    free = available_bytes() + resident_bytes()
    plan = plan_memory(config, spec, work)
    if plan.peak_bytes <= free:
        return plan
    if config.memory.budget is not None:
        raise UserError(
            f"memory.budget {config.memory.budget}: the plan takes {gib(plan.peak_bytes):.2f} GiB, and the machine has "
            f"{gib(free):.2f} GiB free. Close other programs, or state a smaller budget"
        )
    within = replace(config, memory=replace(config.memory, budget=f"{int(0.9 * free)}B"))
    if (smallest := smallest_budget(within, spec, work)) > 0.9 * free:
        raise UserError(
            f"the machine has {gib(free):.2f} GiB free, and this run takes at least {gib(smallest):.2f}. {_LOWER}"
        )
    return plan_memory(within, spec, work)


def budget_bytes(config: RunConfig) -> float:
    """The budget; infinite where none was asked for."""
    return math.inf if config.memory.budget is None else parse_size(config.memory.budget)


def smallest_budget(config: RunConfig, spec: ModelSpec, work: Workload | None = None) -> int:
    """Bytes of the smallest budget that can be planned for."""
    work = Workload.of(config) if work is None else work
    return min(plan.needed_bytes for plan in _candidates(config, spec, work, _kinds(config)))


def _kinds(config: RunConfig) -> tuple[StorageKind, ...]:
    """The storage kinds that may be chosen, the most exact first."""
    return _KINDS if config.memory.storage is None else (config.memory.storage,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frozen:
    """The frozen weights in one kind: the same for every plan that stores them so."""

    storage: Storage
    held: int
    loading: int


def _candidates(
    config: RunConfig, spec: ModelSpec, work: Workload, kinds: Sequence[StorageKind]
) -> Iterator[MemoryPlan]:
    """From best to smallest: exact weights before rounded ones."""
    for storage in map(Storage.of, kinds):
        weights, loading = weight_bytes(spec, storage), loading_bytes(spec, storage)
        for way in _ways(config, spec, work):
            yield MemoryPlan(
                storage=storage,
                way=way,
                learn_cost=learn_cost(spec, way, config.lora.r),
                phases=phases(spec, work, way, weights=weights, loading=loading, rank=config.lora.r),
            )


def _ways(config: RunConfig, spec: ModelSpec, work: Workload) -> Iterator[Way]:
    """Exact gradients before rounded ones, then all sequences at once before few, then the fastest learner first."""
    memory = config.memory
    asked = memory.microbatch_tokens
    tokens = dict.fromkeys(map(work.filled, _MICROBATCHES)) if asked is None else (asked,)
    for saved_inputs in ("f32", "bf16") if memory.saved_inputs is None else (memory.saved_inputs,):
        recomputes = list(_recomputes(memory, spec, saved_inputs))
        learners = sorted(
            ((size, recompute) for recompute in recomputes for size in tokens),
            key=lambda learner: _cost(work, *learner),
        )
        for concurrent, prefill in _samplers(config, work):
            for microbatch_tokens, recompute in learners:
                yield Way(
                    microbatch_tokens=microbatch_tokens,
                    head_chunk_tokens=memory.head_chunk_tokens,
                    recompute=recompute,
                    max_concurrent=concurrent,
                    prefill_tokens=prefill,
                )


def _recomputes(memory: MemoryConfig, spec: ModelSpec, saved_inputs: SavedInputs) -> Iterator[Recompute | None]:
    if memory.gradient_checkpointing is not True and saved_inputs == (memory.saved_inputs or "f32"):
        yield None
    if memory.gradient_checkpointing is not False:
        asked = memory.layers_per_checkpoint
        groups = (1, 2, 3) if asked is None else (asked,)
        yield from (Recompute(every=every, saved_inputs=saved_inputs) for every in groups if every <= spec.num_layers)


def _samplers(config: RunConfig, work: Workload) -> Iterator[tuple[int, int]]:
    """Sequences at once, and prompt tokens in one forward."""
    concurrent = min(config.sampling.max_concurrent, work.most_sequences)
    while True:
        yield from ((concurrent, prefill) for prefill in _PREFILLS)
        if concurrent == 1:
            return
        concurrent //= 2


def _cost(work: Workload, tokens: int, recompute: Recompute | None) -> float:
    """Forward-sized passes per trained token. With a frozen base, backward costs as much as forward.

    A prompt is computed again in every micro-batch that holds completions of it.
    """
    passes = 2 if recompute is None else 3
    return passes * (1 + work.prompt / work.filled(tokens))


def _recompute_words(recompute: Recompute | None) -> str:
    if recompute is None:
        return "all activations kept for backward: no layer is computed twice"
    layers = "each layer" if recompute.every == 1 else f"every {recompute.every} layers"
    return f"only the input of {layers} kept, in {recompute.saved_inputs}, the rest computed again: a third slower"


def _activations(plan: MemoryPlan) -> int:
    return sum(plan.phases["LEARN"].get(name, 0) for name in ("layer inputs", "activations", "workspace"))
