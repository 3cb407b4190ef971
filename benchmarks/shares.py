"""What groat reached of what the machine can do, from one repetition's figures and the machine's rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rates import Rates
from benchmarks.roofline import (
    DecodeStep,
    Learning,
    Part,
    Policy,
    decode_parts,
    learning_parts,
    least_seconds,
    roofline,
)
from benchmarks.work import Work
from groat.model.spec import ModelSpec
from groat.model.storage import Storage


def shares(figures: Mapping[str, Any], work: Work, spec: ModelSpec, rates: Rates) -> dict[str, float]:
    """Of decoding, and of learning if the figures are a whole step's."""
    policy = Policy(
        spec=spec,
        storage=Storage.of(figures["storage"]),
        compute=figures["compute"],
        kv_cache=figures["kv_cache"],
        rank=figures["rank"],
    )
    found: dict[str, float] = {}
    if "decode_step_seconds" in figures:
        found |= _decode_shares(figures, work, policy, rates)
    if "learned" in figures:
        found |= _learn_shares(figures, policy, rates)
    return found


def _decode_shares(figures: Mapping[str, Any], work: Work, policy: Policy, rates: Rates) -> dict[str, float]:
    step = DecodeStep(
        num_sequences=work.num_completions,
        own_tokens=(work.new_tokens + 1) / 2,  # the timed steps have 2 to new_tokens - 1 of them
        prompt_tokens=work.group_size * sum(figures["prompt_tokens"]),
        unique_prompt_tokens=figures["unique_prompt_tokens"],
    )
    parts = decode_parts(policy, step)
    return _least("decode", parts, rates) | {
        "decode_share": roofline(parts, rates).seconds / figures["decode_step_seconds"],
    }


def _learn_shares(figures: Mapping[str, Any], policy: Policy, rates: Rates) -> dict[str, float]:
    parts, seconds = learning_parts(policy, Learning(**figures["learned"])), figures["learn_seconds"]
    rate = sum(part.num_operations for part in parts) / seconds
    return _least("learn", parts, rates) | {
        "learn_share": roofline(parts, rates).seconds / seconds,
        "learn_operations_per_second": rate,
        "learn_share_of_product_rate": rate / rates.products[policy.compute],
    }


def _least(name: str, parts: Sequence[Part], rates: Rates) -> dict[str, float]:
    """Bytes and operations of the work, and the seconds that they and each part take at full rate."""
    found = roofline(parts, rates)
    return {
        f"{name}_bytes": float(sum(part.num_bytes for part in parts)),
        f"{name}_operations": float(sum(part.num_operations for part in parts)),
        f"{name}_byte_seconds": found.byte_seconds,
        f"{name}_operation_seconds": found.operation_seconds,
        **{f"{name}_{part}_least_seconds": seconds for part, seconds in least_seconds(parts, rates).items()},
    }
