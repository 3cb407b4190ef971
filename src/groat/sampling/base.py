"""Where completions come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from groat.config.tree import SamplingConfig
from groat.model.lora import Adapter
from groat.types import Group, Prompt

Progress = Callable[[int], None]
"""Called now and then with the tokens settled since the last call: drawn, or never to be drawn because a completion
ended before it was as long as may be. In the end they are `max_completion_length` for every completion."""


def no_progress(settled: int) -> None:
    """Nobody is watching."""
    del settled


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How many completions of each prompt, and how each token is drawn."""

    num_generations: int = 8
    max_completion_length: int = 512
    min_completion_length: int = 0
    temperature: float = 1.0
    """0 draws the likeliest token; log-probs are then those at temperature 1."""
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()

    def most_tokens(self, prompt: Prompt) -> int:
        """Of a completion of this prompt."""
        if prompt.most_tokens is None:
            return self.max_completion_length
        return min(prompt.most_tokens, self.max_completion_length)

    @classmethod
    def from_config(cls, config: SamplingConfig) -> SamplingParams:
        return cls(
            num_generations=config.num_generations,
            max_completion_length=config.max_completion_length,
            min_completion_length=config.min_completion_length,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
            stop=config.stop,
        )


class Sampler(Protocol):
    """Draws groups of completions; holds memory for it only while awake."""

    def awake(self) -> AbstractContextManager[None]:
        """Hold the memory only sampling needs (the KV cache) while inside."""
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress = no_progress,
    ) -> list[Group]:
        """One group per prompt, in order, under this adapter; every completion carries its version.

        Completion i of a prompt depends on the prompt, the adapter, the params, the prompt's seed and i, and on
        nothing it was batched with (up to the rounding of matmuls of another size).
        """
        ...
