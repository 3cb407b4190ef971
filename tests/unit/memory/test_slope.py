"""What a longer context costs an 8B model, beside what it costs those who compute everything at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from known_specs import LLAMA_8B

from groat.config.tree import EvaluationConfig, MemoryConfig, RunConfig, SamplingConfig, TrainingConfig
from groat.memory.phases import learn_cost
from groat.memory.plan import MemoryPlan, plan_memory
from groat.memory.sizes import kv_bytes, layer_activation_bytes
from groat.memory.workload import Workload
from groat.model.spec import ModelSpec

GROUP, RANK = 8, 16


def plan_at(context: int, budget: str | None, spec: ModelSpec = LLAMA_8B) -> MemoryPlan:
    """One prompt, half of the context, and eight completions of the other half."""
    config = RunConfig(
        sampling=SamplingConfig(num_generations=GROUP, max_completion_length=context // 2),
        training=TrainingConfig(generation_batch_size=GROUP),
        evaluation=EvaluationConfig(num_problems=0),
        memory=MemoryConfig(storage="nf4", budget=budget),
    )
    return plan_memory(config, spec, Workload.of(config, prompt=context // 2))


def at_once_per_token() -> int:
    """Every completion with a prompt of its own, all layers' activations kept, all logits and their gradients."""
    logits = 2 * 4 * LLAMA_8B.vocab_size
    return GROUP * (LLAMA_8B.num_layers * layer_activation_bytes(LLAMA_8B, RANK) + logits)


def test_a_token_of_context_costs_a_tenth_of_computing_everything_at_once() -> None:
    short, long = (plan_at(context, None).peak_bytes for context in (10_000, 20_000))
    assert 0 < (long - short) / 10_000 < at_once_per_token() / 10


@pytest.mark.parametrize("context", [4_000, 20_000])
def test_keys_and_values_of_the_prompt_are_held_once(context: int) -> None:
    half = context // 2
    plan = plan_at(context, "40GiB")
    held = kv_bytes(LLAMA_8B, plan.storage.kv_storage("auto")) * (half + GROUP * half)
    assert plan.phases["SAMPLE"]["kv"] == held


def test_llama_8b_with_twenty_thousand_tokens_and_eight_completions_takes_less_than_54_gb() -> None:
    """Unsloth publishes 54 GB, and 511 GB for TRL, at 20K of context."""
    config = RunConfig(
        sampling=SamplingConfig(num_generations=8, max_completion_length=20_000),
        training=TrainingConfig(generation_batch_size=8),
        memory=MemoryConfig(storage="nf4", budget="54GB"),
    )
    assert plan_memory(config, LLAMA_8B, Workload.of(config, prompt=200)).needed_bytes <= 54e9


def test_what_the_loss_takes_does_not_grow_with_tokens_times_vocabulary() -> None:
    """A larger vocabulary makes a chunk of logits larger, and nothing else of learning."""
    way = plan_at(8_000, None).way
    larger = replace(LLAMA_8B, vocab_size=4 * LLAMA_8B.vocab_size)
    usual, with_larger = (learn_cost(spec, way, RANK, "int8") for spec in (LLAMA_8B, larger))
    assert with_larger.kept_per_token == usual.kept_per_token
    assert with_larger.workspace_per_token == usual.workspace_per_token
    assert with_larger.head_chunk == 4 * usual.head_chunk == 4 * 4 * way.head_chunk_tokens * LLAMA_8B.vocab_size
