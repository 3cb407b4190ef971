"""A native sampler on a tiny decoder, and everything it says computed again without cache, tree or batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tiny_decoders import LetterTokenizer, all_logits, prompt_of, tiny_adapter, tiny_decoder, tiny_spec
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from groat.memory.guard import Guard
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.sampling.base import SamplingParams
from groat.sampling.native.sampler import NativeSampler
from groat.types import Completion, Group, Prompt

SPEC = tiny_spec()
PROMPTS = (
    (1, 2, 3, 4, 5, 6),
    (1, 2, 3, 4, 5, 7, 8, 9),
    (1, 2, 3, 4, 5, 7, 8, 9, 10, 11),  # goes on where the one before ends
    (12,),
    (12,),
    (3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4),
)


def params_of(**changes: Any) -> SamplingParams:
    return SamplingParams(**({"num_generations": 3, "max_completion_length": 12} | changes))


def sampler_of(
    decoder: Decoder | None = None,
    *,
    max_concurrent: int = 64,
    tokenizer: LetterTokenizer | None = None,
    prefill_tokens: int = 2048,
    guard: Guard | None = None,
) -> NativeSampler:
    return NativeSampler(
        decoder or tiny_decoder(SPEC),
        tokenizer or LetterTokenizer(stops=(0,)),  # type: ignore[arg-type]
        max_concurrent=max_concurrent,
        prefill_tokens=prefill_tokens,
        guard=guard,
    )


def prompts_of(token_ids: Iterable[Sequence[int]] = PROMPTS) -> list[Prompt]:
    return [prompt_of(ids, name=f"p{index}") for index, ids in enumerate(token_ids)]


def sampled(
    sampler: NativeSampler,
    params: SamplingParams,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    adapter: Adapter | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Group]:
    with sampler.awake():
        return sampler.sample(prompts_of(prompts), adapter, params, seeds or list(range(len(prompts))))


def trained_adapter() -> Adapter:
    return tiny_adapter(SPEC, size=0.3)


def one_by_one(groups: Sequence[Group]) -> list[tuple[Prompt, Completion]]:
    return [(group.prompt, completion) for group in groups for completion in group.completions]


def token_ids(groups: Sequence[Group]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group.completions] for group in groups]


@torch.no_grad()
def uncached_logits(
    prompt: Sequence[int], completion: Sequence[int], adapter: Adapter | None, decoder: Decoder | None = None
) -> torch.Tensor:
    """The logits [L, V] that each token of a completion was drawn from, before anything was done to them."""
    return all_logits(decoder or tiny_decoder(SPEC), (*prompt, *completion), adapter)[len(prompt) - 1 : -1]


def policy_logprobs(prompt: Sequence[int], completion: Completion, adapter: Adapter | None, temperature: float) -> Any:
    logprobs_LV = (uncached_logits(prompt, completion.token_ids, adapter) / temperature).log_softmax(-1)
    return logprobs_LV[range(len(completion.token_ids)), list(completion.token_ids)]


def warped(logits_1V: torch.Tensor, seen: Sequence[int], params: SamplingParams) -> torch.Tensor:
    """What transformers makes of one row of logits with the same settings, in the order its generate applies them."""
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(MinPLogitsWarper(params.min_p))
    return processors(torch.tensor([list(seen)]), logits_1V.clone())  # type: ignore[arg-type]
