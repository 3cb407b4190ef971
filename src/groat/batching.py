"""Micro-batches: samples laid end to end, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groat.trees import MIN_SHARED, Node, common_length, grow
from groat.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a loss needs to know of one micro-batch: N completion tokens, laid end to end, of S samples.

    Every sample lies whole in one micro-batch. A token that takes no part in the loss is not among the N.
    """

    token_ids_N: Tensor
    sequence_N: Tensor
    """Which of the S samples a token belongs to (int64)."""
    advantages_N: Tensor
    sampler_logprobs_N: Tensor
    """Under the distribution each token was drawn from."""
    old_logprobs_N: Tensor | None = None
    """By the learner, before the first update on these samples; None: this is the first update."""
    reference_logprobs_N: Tensor | None = None
    """With the adapter off."""
    lengths_S: Tensor
    """How many of the N tokens each sample has (floating point)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What losses are divided by: counted over the whole optimizer step, so that splitting cannot change a loss."""

    sequences: int
    """Every completion of the step, whether or not it trains."""
    tokens: int
    """Completion tokens of the step, except those of completions left out as truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Samples as trees of T tokens, and what the loss needs to know of their N completion tokens."""

    token_ids_T: Tensor
    positions_T: Tensor
    nodes: tuple[Node, ...]
    predictor_N: Tensor
    """The row whose hidden state predicts each of the N tokens."""
    policy_logprobs_N: Tensor
    """What the sampler says the plain policy's log-probs are: the learner must find the same."""
    targets: Targets
    samples: tuple[int, ...]
    """Which of the packed samples these are, in the order of `targets.sequence_N`."""


def pack(samples: Sequence[Sample], microbatch_tokens: int) -> tuple[MicroBatch, ...]:
    """Cut a step into micro-batches of at most `microbatch_tokens` tokens each, a longer sample going alone.

    Sorted by their tokens, samples that share a beginning lie side by side, and what they share is counted once,
    but for the few last tokens of it that another sample may yet keep from being shared.
    """
    paths = [_path(sample) for sample in samples]
    rows: list[list[int]] = []
    used, previous = 0, ()
    for index in sorted(range(len(samples)), key=paths.__getitem__):
        more = len(paths[index]) - _surely_shared(previous, paths[index])
        if not rows or used + more > microbatch_tokens:
            rows.append([])
            used, more = 0, len(paths[index])
        rows[-1].append(index)
        used, previous = used + more, paths[index]
    return tuple(_join([samples[index] for index in row], row) for row in rows)


def _surely_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that `grow` stores once whatever else it is given: a branching leaves at most MIN_SHARED - 1 unshared."""
    return max(0, common_length(first, second) - (MIN_SHARED - 1))


def _path(sample: Sample) -> tuple[int, ...]:
    """The tokens that must be computed: the last one predicts nothing."""
    return sample.prompt.token_ids + sample.completion.token_ids[:-1]


def _join(samples: Sequence[Sample], indices: Sequence[int]) -> MicroBatch:
    forest = grow([_path(sample) for sample in samples])
    predictors: list[int] = []
    for index, sample in enumerate(samples):
        predictors.extend(forest.rows(index)[len(sample.prompt.token_ids) - 1 :])
    completions = [sample.completion for sample in samples]
    lengths = torch.tensor([sample.num_tokens for sample in samples])
    return MicroBatch(
        token_ids_T=torch.tensor(forest.token_ids),
        positions_T=torch.tensor(forest.positions),
        nodes=forest.nodes,
        predictor_N=torch.tensor(predictors),
        policy_logprobs_N=_end_to_end([c.policy_logprobs for c in completions]),
        samples=tuple(indices),
        targets=Targets(
            token_ids_N=torch.tensor([token for c in completions for token in c.token_ids]),
            sequence_N=torch.repeat_interleave(torch.arange(len(samples)), lengths),
            advantages_N=_end_to_end([sample.advantages for sample in samples]),
            sampler_logprobs_N=_end_to_end([c.sampler_logprobs for c in completions]),
            old_logprobs_N=_if_all([c.old_logprobs for c in completions]),
            reference_logprobs_N=_if_all([c.reference_logprobs for c in completions]),
            lengths_S=lengths.float(),
        ),
    )


def _end_to_end(values: Sequence[tuple[float, ...]]) -> Tensor:
    return torch.tensor([value for one in values for value in one], dtype=torch.float32)


def _if_all(values: Sequence[tuple[float, ...] | None]) -> Tensor | None:
    known = [one for one in values if one is not None]
    assert len(known) in (0, len(values)), "some completions were scored and some were not"
    return _end_to_end(known) if known else None
