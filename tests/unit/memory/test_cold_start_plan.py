"""A cold start has a phase of its own in the plan, and the policy that it leaves is counted where it is kept."""

from __future__ import annotations

from known_specs import SMOLLM2_135M as SPEC

from groat.config.algorithms import GRPOAlgorithmConfig
from groat.config.cold_start import ColdStartConfig
from groat.config.tree import RunConfig
from groat.memory.plan import MemoryPlan, plan_memory
from groat.memory.sizes import adapter_bytes
from groat.memory.workload import Workload


def planned(longest: int, beta: float = 0.0, reference: str = "primed") -> MemoryPlan:
    config = RunConfig(
        cold_start=ColdStartConfig(examples="x.jsonl" if longest else None, reference=reference),  # type: ignore[arg-type]
        algorithm=GRPOAlgorithmConfig(beta=beta),
    )
    return plan_memory(config, SPEC, Workload.of(config, longest_example=longest))


def test_without_a_cold_start_there_is_no_such_phase() -> None:
    assert list(planned(0).phases) == ["LOAD", "SAMPLE", "SCORE", "LEARN"]


def test_examples_fill_the_micro_batches_of_the_plan_or_one_longer_than_they_are() -> None:
    """A token keeps the same in both phases, so activations are to tokens as they are while learning."""
    for longest in (100, 5000):
        plan = planned(longest)
        tokens = max(longest, plan.way.microbatch_tokens)
        prime, learn = plan.phases["PRIME"], plan.phases["LEARN"]
        kept = "activations" if plan.way.recompute is None else "layer inputs"
        assert prime[kept] == plan.learn_cost.kept_per_token * tokens
        assert prime["workspace"] == plan.learn_cost.workspace(tokens)
        for component in ("weights", "adapter", "optimizer", "gradients", "framework"):
            assert prime[component] == learn[component]


def test_a_primed_reference_policy_is_one_more_adapter_if_anything_is_held_to_it() -> None:
    held = planned(100, beta=0.1).phases
    assert [held[phase]["reference"] for phase in ("SAMPLE", "SCORE", "LEARN")] == [adapter_bytes(SPEC, 16)] * 3
    assert "reference" not in held["PRIME"]
    for plan in (planned(100), planned(100, beta=0.1, reference="base"), planned(0, beta=0.1)):
        assert not any("reference" in components for components in plan.phases.values())
