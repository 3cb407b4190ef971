"""Completions for prompts of any length: each may have as many tokens as there is room behind its own prompt."""

from __future__ import annotations

from collections.abc import Sequence

from groat.model.lora import Adapter
from groat.model.tokenizer import Tokenizer
from groat.sampling.base import Sampler
from groat.trainers.models.sampling_params import CompletionOutput, SamplingParams
from groat.types import Completion, Problem, Prompt, UserError


def draw_completions(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    adapter: Adapter | None,
    params: SamplingParams,
    context: int,
    seeds: Sequence[int],
) -> list[tuple[Completion, ...]]:
    """`params.n` completions of each prompt, in order; prompt and completion have `context` tokens at most."""
    given = [_prompt(place, ids, _most_tokens(place, ids, params, context)) for place, ids in enumerate(prompts)]
    longest = max((prompt.most_tokens or 1 for prompt in given), default=1)
    with sampler.awake():
        groups = sampler.sample(given, adapter, params.for_sampler(longest), seeds)
    return [group.completions for group in groups]


def completion_output(
    index: int, completion: Completion, params: SamplingParams, tokenizer: Tokenizer
) -> CompletionOutput:
    return CompletionOutput(
        index=index,
        text=_text(completion, params, tokenizer),
        token_ids=completion.token_ids,
        cumulative_logprob=sum(completion.sampler_logprobs),
        finish_reason=str(completion.finish_reason),
    )


def _most_tokens(place: int, ids: Sequence[int], params: SamplingParams, context: int) -> int:
    room = context - len(ids)
    if not ids or room < 1:
        raise UserError(
            f"prompt {place} has {len(ids)} tokens, of {context} that prompt and completion may have together "
            "(max_seq_length, and the model's context): "
            + ("it is empty" if not ids else "shorten it, or raise max_seq_length")
        )
    if params.max_tokens is not None and params.max_tokens < 1:
        raise UserError(f"max_tokens must be at least 1, got {params.max_tokens}")
    return room if params.max_tokens is None else min(room, params.max_tokens)


def _prompt(place: int, ids: Sequence[int], most_tokens: int) -> Prompt:
    return Prompt(problem=Problem(id=f"prompt-{place}", prompt=""), token_ids=tuple(ids), most_tokens=most_tokens)


def _text(completion: Completion, params: SamplingParams, tokenizer: Tokenizer) -> str:
    """The completion's, up to a stop string or behind it."""
    if params.skip_special_tokens and not params.include_stop_str_in_output:
        return completion.text
    text = tokenizer.decode(completion.token_ids, skip_special_tokens=params.skip_special_tokens)
    found = [(text.index(stop), stop) for stop in params.stops if stop in text]
    if not found:
        return text
    start, stop = min(found)
    return text[: start + len(stop)] if params.include_stop_str_in_output else text[:start]
