"""How memory will be spent: what the user asked for becomes a MemoryPlan. guard.py keeps to it while a run goes on."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache

from groat.config.sizes import parse_size
from groat.config.tree import MemoryConfig, RunConfig, SavedInputs
from groat.memory.dynamic import DynamicKinds, Known, measuring_seconds
from groat.memory.measure import amount, available_bytes, gib, resident_bytes
from groat.memory.phases import REWARD_WORKERS, LearnCost, Trained, Way, learn_cost, phases
from groat.memory.sizes import SPARE_ROOMS, loading_bytes, matrices, reading_bytes, weight_bytes
from groat.memory.workload import Workload
from groat.model.recompute import Recompute
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.trees import PASS_TOKENS
from groat.types import KVStorage, StorageChoice, StorageKind, UserError

_MICROBATCHES = (4096, 2048, 1024, 768, 640, 512, 384, 256)
_KINDS: tuple[StorageChoice, ...] = ("f32", "bf16", "int8", "dynamic", "nf4")
_STORAGE_REASONS: Mapping[StorageChoice, str] = {
    "f32": "the frozen weights exactly as they are computed with",
    "bf16": "half the bytes of fp32; most checkpoints lose nothing",
    "int8": "a quarter of fp32, a scale for 128 weights; a rounding far below the sampling noise",
    "dynamic": "4 bits, and more where the measured damage is worst",
    "nf4": "QLoRA: about an eighth of fp32, embedding and head in int8",
}
_KV_REASONS: Mapping[KVStorage, str] = {
    "f32": "keys and values exactly as they are computed",
    "int8": "keys and values in a quarter of fp32's bytes, rounded alike by the learner",
}
_ALWAYS_MODEST = 448 * 2**20
"""Bytes of activations not worth stinting on, however small the model."""
_RATHER_THAN_TWICE = 3
"""So many times as much, where less would mean to compute the layers twice, which is a third of learning's time."""
_LOWER = (
    "Shorter completions (sampling.max_completion_length), a smaller lora.r, training.optim adamw_8bit or a smaller "
    "model lower it; so do memory.storage nf4, memory.gradient_checkpointing true and a smaller "
    "memory.microbatch_tokens, where others were asked for"
)
_PREFILLS = (2048, 512)
_NOTHING = Known()
_MARGIN, _LEAST_MARGIN = 0.04, 24 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What was decided, and the bytes it is expected to take: phase -> component -> bytes."""

    storage: Storage
    kv_storage: KVStorage
    way: Way
    learn_cost: LearnCost
    phases: Mapping[str, Mapping[str, int]]
    measures_for: float | None = None
    """Seconds of a measurement that must come before the kinds of dynamic storage are known; None: they are known."""

    @property
    def choices(self) -> dict[str, str]:
        """What was decided, each with its reason in a line."""
        way = self.way
        return {
            "storage": self._storage_choice(),
            "kv_cache": f"{self.kv_storage}: {_KV_REASONS[self.kv_storage]}",
            "gradient_checkpointing": _recompute_words(way.recompute),
            "microbatch_tokens": f"{way.microbatch_tokens} tokens: fewer larger ones take less time",
            "head_chunk_tokens": f"{way.head_chunk_tokens} tokens have logits at one time; the loss needs no more",
            "max_concurrent": f"{way.max_concurrent} sequences sampled side by side: more is faster, each holds KV",
            "prefill_tokens": f"{way.prefill_tokens} prompt tokens computed in one forward",
        }

    @property
    def is_sparing(self) -> bool:
        """Made for a budget, or for what little the machine has."""
        return "spare" not in self.phases["LEARN"]

    @property
    def peak_bytes(self) -> int:
        return max(sum(components.values()) for components in self.phases.values())

    @property
    def own_phases(self) -> Mapping[str, int]:
        """Bytes by phase that this process holds: without the workers of rewards."""
        return {
            phase: sum(size for name, size in components.items() if name != REWARD_WORKERS)
            for phase, components in self.phases.items()
        }

    @property
    def needed_bytes(self) -> int:
        """The budget that this plan needs: what is predicted, and a margin for what no formula sees."""
        return self.peak_bytes + max(_LEAST_MARGIN, round(_MARGIN * self.peak_bytes))

    def _storage_choice(self) -> str:
        if self.storage.given:
            beside = f"embedding and head in {self.storage.embedding}"
            return f"{self.storage.name}: as the checkpoint holds its layers, beside {beside}"
        words = f"{self.storage.name}: {_STORAGE_REASONS[self.storage.name]}"
        if not self.storage.calibrated:
            return words
        if self.measures_for is not None:
            minutes = max(1, round(self.measures_for / 60))
            return f"{words}; which matrix gets what is chosen after a measurement of about {minutes} min"
        kinds = Counter(self.storage.exceptions.values())
        return f"{words}: {''.join(f'{kinds[kind]} matrices in {kind}, ' for kind in sorted(kinds))}the rest in nf4"

    def to_json(self) -> str:
        """The plan as it is kept in a run's folder."""
        return json.dumps({**asdict(self), "peak_bytes": self.peak_bytes}, indent=2) + "\n"


def plan_memory(
    config: RunConfig, spec: ModelSpec, work: Workload | None = None, known: Known = _NOTHING
) -> MemoryPlan:
    """The fastest plan with the most exact weights that fits the budget; without a budget, the fastest whose
    activations take no more than the weights, or than 448 MiB, and three times as much rather than to compute layers
    twice.

    `work` None: prompts of a usual length. Without sensitivities, dynamic storage counts its measurement.
    UserError with the smallest budget that can be kept, if this one cannot.
    """
    work = Workload.of(config) if work is None else work
    ways = _ways_to_store(config, spec, work, known)
    if config.memory.budget is None:
        # Nobody asked for less than exact weights.
        plans = list(_candidates(config, spec, work, known, ways[:1], SPARE_ROOMS))
        modest = max(plans[0].phases["LEARN"]["weights"], _ALWAYS_MODEST)
        return _modest(plans, modest) or min(plans, key=_activations)
    budget = parse_size(config.memory.budget)
    plans = _candidates(config, spec, work, known, ways)
    fitting = next((plan for plan in plans if known.way is not None or plan.needed_bytes <= budget), None)
    if fitting is None:
        smallest = smallest_budget(config, spec, work, known)
        raise UserError(
            f"memory.budget {config.memory.budget} cannot be kept: the smallest that can is "
            f"{math.ceil(smallest / 2**30 * 100) / 100:.2f}GiB, of which Python, torch and the task take "
            f"{amount(work.process_bytes)} before there is any model. {_LOWER}"
        )
    return fitting


def _modest(plans: Sequence[MemoryPlan], modest: float) -> MemoryPlan | None:
    """The fastest of those that take so much for activations; more, if only that spares a second forward."""
    first = next((plan for plan in plans if _activations(plan) <= modest), None)
    if first is not None and first.way.recompute is None:
        return first
    once = (plan for plan in plans if plan.way.recompute is None)
    return next((plan for plan in once if _activations(plan) <= _RATHER_THAN_TWICE * modest), first)


def plan_for_machine(config: RunConfig, spec: ModelSpec, work: Workload, known: Known = _NOTHING) -> MemoryPlan:
    """`plan_memory`, on a machine that has only so much left: without a budget, what is left is the budget.

    UserError where not even that can be kept, or where the budget promises more than the machine has.
    """
    free = available_bytes() + resident_bytes()
    plan = plan_memory(config, spec, work, known)
    if plan.peak_bytes <= free:
        return plan
    if config.memory.budget is not None:
        raise UserError(
            f"memory.budget {config.memory.budget}: the plan takes {gib(plan.peak_bytes):.2f} GiB, and the machine has "
            f"{gib(free):.2f} GiB free. Close other programs, or state a smaller budget"
        )
    known = replace(known, way=None)
    within = replace(config, memory=replace(config.memory, budget=f"{int(0.9 * free)}B"))
    if (smallest := smallest_budget(within, spec, work, known)) > 0.9 * free:
        raise UserError(
            f"the machine has {gib(free):.2f} GiB free, and this run takes at least {gib(smallest):.2f}. {_LOWER}"
        )
    return plan_memory(within, spec, work, known)


def budget_bytes(config: RunConfig) -> float:
    """The budget; infinite where none was asked for."""
    return math.inf if config.memory.budget is None else parse_size(config.memory.budget)


def smallest_budget(config: RunConfig, spec: ModelSpec, work: Workload | None = None, known: Known = _NOTHING) -> int:
    """Bytes of the smallest budget that can be planned for."""
    work = Workload.of(config) if work is None else work
    ways = _ways_to_store(config, spec, work, known, smallest=True)
    return min(plan.needed_bytes for plan in _candidates(config, spec, work, known, ways))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frozen:
    """The frozen weights, stored in one way."""

    storage: Storage
    held: int
    loading: int
    measuring: int = 0
    """Bytes of the measurement that must come first; 0: none."""

    @classmethod
    def of(cls, spec: ModelSpec, storage: Storage, measuring: int = 0) -> _Frozen:
        return cls(
            storage=storage,
            held=weight_bytes(spec, storage),
            loading=loading_bytes(spec, storage),
            measuring=measuring,
        )


_WayToStore = Callable[[int | None], _Frozen | None]
"""From the bytes that everything else leaves for the weights (None: no budget) to how they are stored; None: not so."""


def _ways_to_store(
    config: RunConfig, spec: ModelSpec, work: Workload, known: Known, *, smallest: bool = False
) -> list[_WayToStore]:
    """The ways that may be chosen, the most exact first; with `smallest`, dynamic storage as small as it can be."""
    asked, kept = config.memory.storage, known.kept
    if kept is not None and asked in (None, kept.name):
        return [_always(spec, kept.keeping(known.found))]
    if known.found is not None:
        return [_always(spec, storage) for storage in _beside_given(asked, known.found)]
    dynamic = DynamicKinds(spec=spec, sensitivities=known.sensitivities)
    ways: list[_WayToStore] = []
    for kind in _KINDS if asked is None else (asked,):
        if kind != "dynamic":
            ways.append(_always(spec, Storage.of(kind)))
        elif smallest:
            ways.append(_always(spec, dynamic.smallest, dynamic.measuring_bytes))
        elif config.memory.budget is None or _most(config) >= work.process_bytes + dynamic.measuring_bytes:
            # Few sequences at once are a lesser evil than a head in 4 bits.
            ways += [_dynamic(spec, dynamic, least) for least in dynamic.shares]
    return ways


def _beside_given(asked: StorageChoice | None, found: Storage) -> list[Storage]:
    """Layers as the checkpoint has them; embedding and head may be rounded."""
    if asked not in (None, found.layers):
        raise UserError(
            f"memory.storage is {asked}, but the checkpoint holds its layers in {found.layers} already, and other "
            "kinds would only lose more. Leave memory.storage out, or use the unquantized model"
        )
    kinds: tuple[StorageKind, ...] = ("f32", "bf16", "int8") if asked is None else (found.layers,)
    return [Storage.of(kind).keeping(found) for kind in kinds]


def _always(spec: ModelSpec, storage: Storage, measuring: int = 0) -> _WayToStore:
    frozen = _Frozen.of(spec, storage, measuring)
    return lambda _: frozen


def _dynamic(spec: ModelSpec, dynamic: DynamicKinds, least: int) -> _WayToStore:
    """Nearly all the bytes that there are, if they are at least so many."""

    @cache
    def frozen_for(room: int | None) -> _Frozen | None:
        if room is None:
            storage = dynamic.storage()
        else:
            # Weights never shrink: what they need not have is left to the guard, as a second margin.
            spare = max(_LEAST_MARGIN, round(_MARGIN * room))
            storage = None if room < least else dynamic.storage(max(least, room - spare))
        return None if storage is None else _Frozen.of(spec, storage, dynamic.measuring_bytes)

    return frozen_for


def _candidates(
    config: RunConfig,
    spec: ModelSpec,
    work: Workload,
    known: Known,
    ways_to_store: Sequence[_WayToStore],
    spare: int = 0,
) -> Iterator[MemoryPlan]:
    """From best to smallest: exact weights before rounded ones."""
    for way_to_store in ways_to_store:
        for way in _ways(config, spec, work) if known.way is None else [known.way]:
            frozen = way_to_store(_room(config, spec, work, way))
            if frozen is not None:
                yield _plan(config, spec, work, way, frozen, spare)


def _plan(config: RunConfig, spec: ModelSpec, work: Workload, way: Way, frozen: _Frozen, spare: int) -> MemoryPlan:
    measuring = (
        {"MEASURE": {"framework": work.process_bytes, "measurement": frozen.measuring}} if frozen.measuring else {}
    )
    trained, kv = _trained(config), frozen.storage.kv_storage(config.model.kv_cache)
    return MemoryPlan(
        storage=frozen.storage,
        kv_storage=kv,
        way=way,
        learn_cost=learn_cost(spec, way, trained.largest_rank, kv, trains_entropy=work.trains_entropy),
        phases={
            **measuring,
            **phases(spec, work, way, weights=frozen.held, loading=frozen.loading, trained=trained, kv=kv, spare=spare),
        },
        measures_for=measuring_seconds(spec) if frozen.measuring else None,
    )


def _room(config: RunConfig, spec: ModelSpec, work: Workload, way: Way) -> int | None:
    """What a way leaves for the weights, in its phases and while they are loaded; None without a budget."""
    if config.memory.budget is None:
        return None
    # Only quantized weights are chosen by the room there is.
    kv = Storage.of("nf4").kv_storage(config.model.kv_cache)
    without = phases(spec, work, way, weights=0, loading=0, trained=_trained(config), kv=kv)
    most_of_phases = max(sum(parts.values()) for parts in without.values())
    return _most(config) - max(work.process_bytes + _loaded_at_once(spec), most_of_phases)


def _trained(config: RunConfig) -> Trained:
    value_model = config.algorithm.value_model
    value_rank = 0 if value_model is None else value_model.r
    return Trained(rank=config.lora.r, optim=config.training.optim, value_rank=value_rank)


@cache
def _loaded_at_once(spec: ModelSpec) -> int:
    """Beside what is stored by then: in dynamic storage, the most of any matrix."""
    return max(reading_bytes(shape, whole=True) for shape in matrices(spec).values())


def _most(config: RunConfig) -> int:
    """The largest peak that leaves the margin within the budget."""
    assert config.memory.budget is not None
    budget = parse_size(config.memory.budget)
    return min(budget - _LEAST_MARGIN, math.floor(budget / (1 + _MARGIN)) - 1)


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
    """Forward-sized passes per token of a completion. With a frozen base, backward costs as much as forward.

    Every micro-batch takes a time of its own, and computes again a prompt that is too short to be shared with others.
    """
    passes = 2 if recompute is None else 3
    again = PASS_TOKENS + (0 if work.prefix(tokens) else work.prompt)
    return passes * (1 + again / max(1, work.filled(tokens) - work.prompt))


def _recompute_words(recompute: Recompute | None) -> str:
    if recompute is None:
        return "all activations kept for backward: no layer is computed twice"
    layers = "each layer" if recompute.every == 1 else f"every {recompute.every} layers"
    return f"only the input of {layers} kept, in {recompute.saved_inputs}, the rest computed again: a third slower"


def _activations(plan: MemoryPlan) -> int:
    return sum(plan.phases["LEARN"].get(name, 0) for name in ("layer inputs", "activations", "workspace"))
