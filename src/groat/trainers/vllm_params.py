"""What GRPOConfig's vllm_sampling_params asks for: a SamplingParams, as Unsloth's notebooks pass it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groat.types import UserError

_TAKEN = {
    "top_p": ("top_p", 1.0),
    "top_k": ("top_k", 0),
    "min_p": ("min_p", 0.0),
    "repetition_penalty": ("repetition_penalty", 1.0),
    "min_tokens": ("min_completion_length", 0),
}
"""Our names, and values that ask for nothing."""
_DECIDED = {
    "temperature": ("temperature", 1.0),
    "max_tokens": ("max_completion_length", 16),
    "n": ("num_generations", 1),
    "seed": ("seed", None),
}
"""Options of the config that decide instead, and values that ask for nothing."""


def sampling_asked(params: Any) -> dict[str, Any]:
    """Its settings by the names of a recipe's section `sampling`; those left at their defaults ask for nothing."""
    if params is None:
        return {}
    if not all(hasattr(params, name) for name in (*_TAKEN, "stop")):
        raise UserError(f"vllm_sampling_params is a {type(params).__name__}: give a groat.SamplingParams")
    asked = {
        ours: getattr(params, name) for name, (ours, default) in _TAKEN.items() if getattr(params, name) != default
    }
    if asked.get("top_k") == -1:
        del asked["top_k"]
    if params.stop:
        asked["stop"] = [params.stop] if isinstance(params.stop, str) else list(params.stop)
    return asked


def sampling_notes(params: Any) -> Iterator[str]:
    """A sentence for every setting that the config decides."""
    for name, (option, default) in _DECIDED.items():
        value = getattr(params, name, default)
        if value != default:
            yield f"vllm_sampling_params.{name}={value}: {option} decides"
