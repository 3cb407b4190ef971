"""Completions of several turns, made by hand, on the tiny decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tiny_decoders import completion_of, prompt_of

from groat.types import Completion, Group, Reward, Sample, Span


def conversation_of(turns: Sequence[tuple[int, ...]], logprob: float = -1.0) -> Completion:
    """Of token ids that the model and its environment wrote in turn, the model first."""
    token_ids: tuple[int, ...] = ()
    replies: list[Span] = []
    for number, turn in enumerate(turns):
        if number % 2:
            replies.append(Span(len(token_ids), len(token_ids) + len(turn)))
        token_ids += turn
    drawn = (logprob,) * sum(map(len, turns[::2]))
    return replace(completion_of(token_ids), sampler_logprobs=drawn, policy_logprobs=drawn, replies=tuple(replies))


def sample_of_turns(prompt: tuple[int, ...], turns: Sequence[tuple[int, ...]], advantage: float) -> Sample:
    completion = conversation_of(turns)
    return Sample(prompt=prompt_of(prompt), completion=completion, advantages=(advantage,) * completion.num_drawn)


def rewarded_group(completions: Sequence[Completion], rewards: Sequence[float], prompt: tuple[int, ...]) -> Group:
    return Group(
        prompt=prompt_of(prompt),
        completions=tuple(completions),
        rewards=tuple(Reward(total=value, parts={"r": value}) for value in rewards),
    )
