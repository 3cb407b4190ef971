"""A sampler that notes when tokens are settled: how long it takes to the first ones, and how fast it decodes then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from groat.model.lora import Adapter
from groat.sampling.base import Progress, Sampler, SamplingParams, no_progress
from groat.types import Group, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One call to `sample`, whose completions are all of one length."""

    seconds: float
    marks: tuple[tuple[float, int], ...]
    """Seconds since the call, and tokens settled since the mark before."""
    num_sequences: int

    @property
    def num_tokens(self) -> int:
        return sum(settled for _, settled in self.marks)

    @property
    def decode_step_seconds(self) -> float | None:
        """A token for every sequence, on average: from the first mark, by which prompts are computed, to the last but
        one, after which no token is computed any more. None where that leaves nothing."""
        settled = sum(tokens for _, tokens in self.marks[1:-1])
        return (self.marks[-2][0] - self.marks[0][0]) * self.num_sequences / settled if settled else None

    def figures(self) -> dict[str, float]:
        """For the results; `first_seconds` covers the prompts and the first tokens."""
        step = self.decode_step_seconds
        return {
            "rollout_tokens_per_second": self.num_tokens / self.seconds,
            "first_seconds": self.marks[0][0],
            **({} if step is None else {"decode_step_seconds": step}),
        }


class TimedSampler:
    """Another sampler's completions, and in `last` how they came about."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.last = Drawn(seconds=0.0, marks=(), num_sequences=0)

    def awake(self) -> AbstractContextManager[None]:
        return self._sampler.awake()

    def sample(
        self,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress = no_progress,
    ) -> list[Group]:
        started = time.perf_counter()
        marks: list[tuple[float, int]] = []

        def settled(num_tokens: int) -> None:
            marks.append((time.perf_counter() - started, num_tokens))
            progress(num_tokens)

        groups = self._sampler.sample(prompts, adapter, params, seeds, settled)
        seconds, num_sequences = time.perf_counter() - started, len(prompts) * params.num_generations
        self.last = Drawn(seconds=seconds, marks=tuple(marks), num_sequences=num_sequences)
        return groups
