import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from known_specs import SMOLLM2_135M as SPEC

from groat.config.algorithms import GRPOAlgorithmConfig, PPOAlgorithmConfig
from groat.config.sizes import parse_size
from groat.config.tree import LoraConfig, MemoryConfig, RunConfig, SamplingConfig
from groat.memory import plan as planning
from groat.memory.dynamic import Known
from groat.memory.kept import kept_storage, kept_way
from groat.memory.plan import MemoryPlan, plan_memory
from groat.memory.sizes import adapter_bytes, loading_bytes, matrix_bytes, weight_bytes
from groat.memory.workload import Workload
from groat.model.recompute import Recompute
from groat.model.storage import Storage
from groat.types import StorageKind, UserError

WORK = Workload.of(RunConfig())


def plan_for(budget: str | None, **memory: object) -> MemoryPlan:
    return plan_memory(RunConfig(memory=MemoryConfig(budget=budget, **memory)), SPEC)  # type: ignore[arg-type]


def told_budget(rank: int = 16) -> str:
    """The smallest budget, as the refusal of an impossible one tells it."""
    config = RunConfig(lora=LoraConfig(r=rank), memory=MemoryConfig(budget="400MiB"))
    with pytest.raises(UserError) as refused:
        plan_memory(config, SPEC)
    found = re.search(r"smallest that can is ([0-9.]+GiB)", str(refused.value))
    assert found
    return found[1]


def smallest_mebibytes() -> int:
    return parse_size(told_budget()) // 2**20


def test_a_budget_that_cannot_be_kept_is_refused_with_ways_to_need_less() -> None:
    with pytest.raises(UserError, match=r"memory.budget 400MiB cannot be kept.*sampling.max_completion_length.*lora.r"):
        plan_for("400MiB")


@pytest.mark.parametrize("rank", range(8, 40, 2))
def test_the_smallest_budget_that_is_told_can_be_kept_and_a_tenth_less_cannot(rank: int) -> None:
    told = told_budget(rank)
    config = RunConfig(lora=LoraConfig(r=rank), memory=MemoryConfig(budget=told))
    assert plan_memory(config, SPEC).needed_bytes <= parse_size(told)
    with pytest.raises(UserError):
        plan_memory(replace(config, memory=MemoryConfig(budget=f"{parse_size(told) * 9 // 10 // 1000}KB")), SPEC)


def test_ppo_plans_for_its_value_model_and_for_nothing_else() -> None:
    """Its weights and moments always, its gradients while learning; activations are the policy's or its own, in turn.
    Rank 8 has half of what the policy's rank 16 has, and the head 577 numbers."""
    value = adapter_bytes(SPEC, 16) // 2 + 4 * 577
    grpo, ppo = (plan_memory(RunConfig(algorithm=kind), SPEC) for kind in (GRPOAlgorithmConfig(), PPOAlgorithmConfig()))
    assert ppo.way == grpo.way
    more = {name: sum(parts.values()) - sum(grpo.phases[name].values()) for name, parts in ppo.phases.items()}
    assert more == {"LOAD": 0, "SAMPLE": 3 * value, "SCORE": 3 * value, "LEARN": 4 * value}
    assert ppo.phases["SAMPLE"]["value model"] == value


def test_every_plan_keeps_to_its_budget() -> None:
    for mebibytes in range(smallest_mebibytes(), 16_000, 97):
        assert plan_for(f"{mebibytes}MiB").peak_bytes <= mebibytes * 2**20


def test_more_memory_never_gives_a_slower_plan_for_the_same_weights() -> None:
    plans = [plan_for(f"{mebibytes}MiB") for mebibytes in range(smallest_mebibytes(), 16_000, 97)]
    for less, more in itertools.pairwise(plans):
        kinds = [planning._KINDS.index(plan.storage.name) for plan in (less, more)]
        assert kinds[1] <= kinds[0], "more memory never gives less exact weights"
        if kinds[1] < kinds[0]:
            continue
        costs = [planning._cost(WORK, plan.way.microbatch_tokens, plan.way.recompute) for plan in (less, more)]
        exact = [plan.way.recompute is None or plan.way.recompute.saved_inputs == "f32" for plan in (less, more)]
        assert exact[1] >= exact[0], "more memory never gives less exact gradients"
        if exact[1] > exact[0]:
            continue
        assert costs[1] <= costs[0] or more.way.max_concurrent > less.way.max_concurrent
        assert more.way.max_concurrent >= less.way.max_concurrent
    assert plans[0].way.recompute
    assert plans[-1].way.recompute is None


def test_weights_are_rounded_only_for_a_budget_that_needs_it() -> None:
    """SmolLM2 has 134.5 million weights: 513 MiB in fp32, 257 in bf16, 130 in int8, 80 in NF4 with int8 embeddings."""
    wanted = {None: "f32", "4GiB": "f32", "850MiB": "bf16", "700MiB": "int8", told_budget(): "nf4"}
    assert {budget: plan_for(budget).storage.name for budget in wanted} == wanted
    mebibytes = [weight_bytes(SPEC, Storage.of(kind)) / 2**20 for kind in get_args(StorageKind)]
    assert mebibytes == pytest.approx([513, 256.5, 130.4, 79.7], abs=0.6)


def test_without_a_budget_weights_stay_exact_however_much_is_asked_for() -> None:
    assert plan_for(None, microbatch_tokens=10**7).storage.layers == "f32"


@pytest.mark.parametrize(("completion_tokens", "once"), [(128, True), (1024, True), (4096, False)])
def test_without_a_budget_layers_are_computed_twice_only_where_once_would_take_three_times_what_is_modest(
    completion_tokens: int, once: bool
) -> None:
    """A sequence of 4096 tokens would take 3 GiB; 1024 tokens take more than the 513 MiB that the weights do."""
    config = RunConfig(sampling=SamplingConfig(max_completion_length=completion_tokens))
    plan = plan_memory(config, SPEC)
    activations = planning._activations(plan) / 2**20
    assert (plan.way.recompute is None) == once
    assert activations <= 3 * 513
    assert activations > 513 or completion_tokens != 1024


@pytest.mark.parametrize("kind", ["f32", "nf4"])
def test_loading_holds_what_is_stored_and_at_most_32_mebibytes_of_rows(kind: StorageKind) -> None:
    storage = Storage.of(kind)
    wide = replace(SPEC, intermediate_size=100 * SPEC.intermediate_size)
    assert loading_bytes(wide, storage) == weight_bytes(wide, storage) + 32 * 2**20
    # The last gate_up is smaller than that, and down, behind it, smaller still.
    stored = weight_bytes(SPEC, storage) - matrix_bytes(576, 1536, kind)
    assert loading_bytes(SPEC, storage) == stored + 5 * 3072 * 576


def test_nf4_rounded_for_its_inputs_is_read_whole() -> None:
    """The embedding comes first: 27 MiB of weights at 4 bytes and 1, beside what it becomes; the rest is smaller."""
    storage = replace(Storage.of("nf4"), embedding="nf4", calibrated=True)
    kept = matrix_bytes(49152, 576, "nf4")
    assert loading_bytes(replace(SPEC, num_layers=1), storage) == kept + 5 * 49152 * 576


def test_what_the_user_fixes_is_not_decided_again() -> None:
    assert plan_for(None, storage="nf4").storage == Storage(layers="nf4", embedding="int8")
    plan = plan_for("8GiB", microbatch_tokens=333, head_chunk_tokens=77, gradient_checkpointing=True)
    assert (plan.way.microbatch_tokens, plan.way.head_chunk_tokens) == (333, 77)
    assert plan.way.recompute == Recompute(every=1, saved_inputs="f32")
    assert plan_for("16GiB", gradient_checkpointing=False).way.recompute is None
    sparing = plan_for("16GiB", gradient_checkpointing=True, layers_per_checkpoint=3, saved_inputs="bf16")
    assert sparing.way.recompute == Recompute(every=3, saved_inputs="bf16")


def test_the_peak_is_the_larger_phase_and_the_plan_is_kept_as_json() -> None:
    plan = plan_for("4GiB")
    sums = {phase: sum(parts.values()) for phase, parts in plan.phases.items()}
    assert plan.peak_bytes == max(sums.values())
    kept = json.loads(plan.to_json())
    assert kept["peak_bytes"] == plan.peak_bytes
    assert kept["phases"]["LEARN"]["weights"] == plan.phases["SAMPLE"]["weights"]


def test_no_more_sequences_are_planned_for_than_a_step_or_an_evaluation_has() -> None:
    config = RunConfig()
    few = replace(config, evaluation=replace(config.evaluation, num_problems=0))
    assert plan_memory(few, SPEC).way.max_concurrent == 64
    assert plan_memory(config, SPEC).way.max_concurrent == 128


def test_a_budget_in_another_unit_is_the_same_budget() -> None:
    assert parse_size("2GiB") == parse_size("2048MiB")
    assert plan_for("2GiB") == plan_for("2048MiB")


def test_planning_loads_no_torch() -> None:
    code = "import sys\nimport groat.memory.plan\nassert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_goes_on_in_the_way_it_began_even_where_a_little_more_is_held_by_now(tmp_path: Path) -> None:
    config = RunConfig(memory=MemoryConfig(budget="1GiB"))
    began = plan_memory(config, SPEC, WORK)
    (tmp_path / "plan.json").write_text(began.to_json())
    known = Known(kept=kept_storage(tmp_path / "plan.json", SPEC), way=kept_way(tmp_path / "plan.json"))
    later = replace(WORK, process_bytes=WORK.process_bytes + 200 * 2**20)
    assert plan_memory(config, SPEC, later, known).way == began.way
    assert plan_memory(config, SPEC, later).way != began.way


@pytest.mark.parametrize("way", [None, {}, {"microbatch_tokens": 5}, [1]])
def test_a_plan_that_does_not_say_its_way_is_refused(tmp_path: Path, way: object) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"way": way}))
    with pytest.raises(UserError, match="cannot go on as it began"):
        kept_way(tmp_path / "plan.json")
