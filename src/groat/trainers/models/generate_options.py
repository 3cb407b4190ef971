"""What transformers' `generate` is asked for, as SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groat.trainers.models.sampling_params import SamplingParams
from groat.types import UserError

_DRAWING = ("temperature", "top_p", "top_k", "min_p")
_HARMLESS = {"use_cache", "pad_token_id", "eos_token_id", "bos_token_id", "cache_implementation", "return_dict"}
_DEFAULT_LENGTH = 20
"""As in transformers."""


def sampling_params_of(options: Mapping[str, Any], prompt_tokens: int) -> SamplingParams:
    """Greedy unless do_sample or one of temperature, top_p, top_k, min_p is given; max_length counts the prompt.

    Where transformers takes the model's generation_config.json for what is left out, here nothing is filtered.
    """
    given = {name: value for name, value in options.items() if value is not None and name not in _HARMLESS}
    known = {*_DRAWING, "do_sample", "max_new_tokens", "max_length", "min_new_tokens", "repetition_penalty"}
    known |= {"num_return_sequences", "stop_strings"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise UserError(
            f"generate was given {', '.join(f'{name}={given[name]!r}' for name in unknown)}; groat knows "
            f"{', '.join(sorted(known))}: leave the others out"
        )
    samples = given.get("do_sample", any(name in given for name in _DRAWING))
    length = given.get("max_new_tokens", given.get("max_length", _DEFAULT_LENGTH + prompt_tokens) - prompt_tokens)
    return SamplingParams(
        n=given.get("num_return_sequences", 1),
        temperature=given.get("temperature", 1.0) if samples else 0.0,
        top_p=given.get("top_p", 1.0) if samples else 1.0,
        top_k=given.get("top_k", 0) if samples else 0,
        min_p=given.get("min_p", 0.0) if samples else 0.0,
        repetition_penalty=given.get("repetition_penalty", 1.0),
        max_tokens=length,
        min_tokens=given.get("min_new_tokens", 0),
        stop=given.get("stop_strings"),
    )
