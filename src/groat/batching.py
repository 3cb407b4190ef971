"""Micro-batches: samples laid end to end, without padding, and what many of them begin with computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from groat.trees import LEAST_PREFIX, MIN_SHARED, PASS_TOKENS, Node, common_length, grow
from groat.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a loss needs to know of one micro-batch: N drawn tokens, laid end to end, of S samples.

    Every sample lies whole in one micro-batch, and with it all samples it has a joint loss with. A token that takes no
    part in the loss, such as one that a tool wrote, is not among the N.
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
    old_values_N: Tensor | None = None
    """By the value model, before the first update on these samples."""
    returns_N: Tensor | None = None
    """What the value model is drawn towards."""
    lengths_S: Tensor
    """How many of the N tokens each sample has (floating point)."""
    bundle_S: Tensor | None = None
    """Which joint loss each sample belongs to, counted from 0 (int64); None: every sample has a loss of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What losses are divided by: counted over the whole optimizer step, so that splitting cannot change a loss."""

    sequences: int
    """Every completion of the step, whether or not it trains."""
    tokens: int
    """Drawn tokens of the step, except those of completions left out as truncated."""
    groups: int = 0
    """Prompts of the step; 0: of no interest to the algorithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Samples as trees of T tokens, and what the loss needs to know of their N completion tokens."""

    prefix_ids: tuple[int, ...]
    """What comes before every tree: the same in all micro-batches that follow one another with it, of which none needs
    to compute it for itself. It predicts none of the N tokens."""
    token_ids_T: Tensor
    positions_T: Tensor
    """From the beginning of the sequence, prefix included."""
    nodes: tuple[Node, ...]
    predictor_N: Tensor
    """The row whose hidden state predicts each of the N tokens."""
    policy_logprobs_N: Tensor
    """What the sampler says the plain policy's log-probs are: the learner must find the same."""
    targets: Targets
    samples: tuple[int, ...]
    """Which of the packed samples these are, in the order of `targets.sequence_N`."""
    num_bundles: int
    """Parts that it can be cut into: samples, or as many of them as have one joint loss."""

    @property
    def num_tokens(self) -> int:
        """All that must be in memory for it, prefix included."""
        return len(self.prefix_ids) + len(self.token_ids_T)


def pack(samples: Sequence[Sample], microbatch_tokens: int) -> tuple[MicroBatch, ...]:
    """Cut a step into micro-batches of at most `microbatch_tokens` tokens each, a longer sample going alone.

    Sorted by their tokens, samples that share a beginning lie side by side, and what they share is counted once,
    but for the few last tokens of it that another sample may yet keep from being shared. Where many micro-batches would
    compute the same beginning, it becomes their prefix.
    """
    paths = [_path(sample) for sample in samples]
    cutting = _Cutting(samples, paths, microbatch_tokens)
    return tuple(
        _join([samples[index] for index in row], [paths[index] for index in row], row, family.prefix_length)
        for family in cutting.families(_bundles(samples, paths))
        for row in family.rows
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Micro-batches, as the samples of each, that share a prefix of this length."""

    prefix_length: int
    rows: list[list[int]]
    num_tokens: int
    """Computed in all, prefix included."""

    @property
    def cost(self) -> int:
        return self.num_tokens + PASS_TOKENS * (len(self.rows) + (self.prefix_length > 0))


@dataclass(frozen=True, slots=True)
class _Cutting:
    """How to cut bundles of samples into micro-batches with the least work."""

    samples: Sequence[Sample]
    paths: Sequence[tuple[int, ...]]
    microbatch_tokens: int

    def families(self, bundles: Sequence[list[int]]) -> list[_Family]:
        """One without a prefix, one with all that these bundles share, or those of its branches."""
        plain = self._fill(bundles, 0)
        if len(plain.rows) < 2:
            return [plain]
        choices = [[plain]]
        shared = self._shared(bundles)
        if LEAST_PREFIX <= shared < self.microbatch_tokens:
            choices.append([self._fill(bundles, shared)])
        branches = self._branches(bundles, shared)
        if len(branches) > 1:
            choices.append([family for branch in branches for family in self.families(branch)])
        return min(choices, key=lambda families: sum(family.cost for family in families))

    def _fill(self, bundles: Sequence[list[int]], prefix_length: int) -> _Family:
        rows: list[list[int]] = []
        used, previous, total = 0, (), prefix_length
        for bundle in bundles:
            paths = [self.paths[index][prefix_length:] for index in bundle]
            more = _added_tokens(previous, paths)
            if not rows or prefix_length + used + more > self.microbatch_tokens:
                rows.append([])
                used, more = 0, _added_tokens((), paths)
            rows[-1].extend(bundle)
            used, previous, total = used + more, paths[-1], total + more
        return _Family(prefix_length=prefix_length, rows=rows, num_tokens=total)

    def _shared(self, bundles: Sequence[list[int]]) -> int:
        """Tokens that all begin with, of their prompts; the last of a prompt predicts, and is not counted."""
        members = [index for bundle in bundles for index in bundle]
        first, last = min(self.paths[index] for index in members), max(self.paths[index] for index in members)
        shortest = min(len(self.samples[index].prompt.token_ids) for index in members)
        return min(common_length(first, last), shortest - 1)

    def _branches(self, bundles: Sequence[list[int]], shared: int) -> list[list[list[int]]]:
        """Those that go on with the same token behind what all share."""
        branches: defaultdict[tuple[int, ...], list[list[int]]] = defaultdict(list)
        for bundle in bundles:
            branches[self.paths[bundle[0]][shared : shared + 1]].append(bundle)
        return list(branches.values())


def _bundles(samples: Sequence[Sample], paths: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """What stays together, in the order of the first tokens: samples with one joint loss, and every other by itself."""
    together: dict[tuple[str, int], list[int]] = {}
    for index in sorted(range(len(samples)), key=paths.__getitem__):
        number = samples[index].bundle
        together.setdefault(("alone", index) if number is None else ("bundle", number), []).append(index)
    return list(together.values())


def _added_tokens(previous: Sequence[int], paths: Sequence[Sequence[int]]) -> int:
    """At most so many tokens come in with these paths, one behind the other, after the previous one."""
    return sum(len(path) - _surely_shared(before, path) for before, path in pairwise((previous, *paths)))


def _surely_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that `grow` stores once whatever else it is given: a branching leaves at most MIN_SHARED - 1 unshared."""
    return max(0, common_length(first, second) - (MIN_SHARED - 1))


def _path(sample: Sample) -> tuple[int, ...]:
    """The tokens that must be computed: the last drawn one, and what is behind it, predict nothing."""
    completion = sample.completion
    return sample.prompt.token_ids + completion.token_ids[: completion.drawn_places[-1]]


def _join(
    samples: Sequence[Sample], paths: Sequence[tuple[int, ...]], indices: Sequence[int], prefix_length: int
) -> MicroBatch:
    forest = grow([path[prefix_length:] for path in paths])
    predictors: list[int] = []
    for index, sample in enumerate(samples):
        rows = forest.rows(index)[len(sample.prompt.token_ids) - 1 - prefix_length :]
        predictors.extend(rows[place] for place in sample.completion.drawn_places)
    completions = [sample.completion for sample in samples]
    lengths = torch.tensor([sample.num_tokens for sample in samples])
    return MicroBatch(
        prefix_ids=paths[0][:prefix_length],
        token_ids_T=torch.tensor(forest.token_ids),
        positions_T=torch.tensor(forest.positions) + prefix_length,
        nodes=forest.nodes,
        predictor_N=torch.tensor(predictors),
        policy_logprobs_N=_end_to_end([c.policy_logprobs for c in completions]),
        samples=tuple(indices),
        num_bundles=len({(index if sample.bundle is None else sample.bundle) for index, sample in enumerate(samples)}),
        targets=Targets(
            token_ids_N=torch.tensor([c.token_ids[place] for c in completions for place in c.drawn_places]),
            sequence_N=torch.repeat_interleave(torch.arange(len(samples)), lengths),
            advantages_N=_end_to_end([sample.advantages for sample in samples]),
            sampler_logprobs_N=_end_to_end([c.sampler_logprobs for c in completions]),
            old_logprobs_N=_if_all([c.old_logprobs for c in completions]),
            reference_logprobs_N=_if_all([c.reference_logprobs for c in completions]),
            old_values_N=_if_all([c.values for c in completions]),
            returns_N=_if_all([sample.returns for sample in samples]),
            lengths_S=lengths.float(),
            bundle_S=_numbered_from_0([sample.bundle for sample in samples]),
        ),
    )


def _end_to_end(values: Sequence[tuple[float, ...]]) -> Tensor:
    return torch.tensor([value for one in values for value in one], dtype=torch.float32)


def _if_all(values: Sequence[tuple[float, ...] | None]) -> Tensor | None:
    known = [one for one in values if one is not None]
    assert len(known) in (0, len(values)), "some completions were scored and some were not"
    return _end_to_end(known) if known else None


def _numbered_from_0(bundles: Sequence[int | None]) -> Tensor | None:
    known = [bundle for bundle in bundles if bundle is not None]
    assert len(known) in (0, len(bundles)), "some samples have a joint loss and some have their own"
    places = {bundle: place for place, bundle in enumerate(dict.fromkeys(known))}
    return torch.tensor([places[bundle] for bundle in known]) if known else None
