"""How many sequences a run computes at a time, and how long they get: what its memory depends on besides the model."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from groat.config.tree import RunConfig
from groat.memory.sizes import FRAMEWORK
from groat.trees import LEAST_PREFIX, MIN_SHARED

_TYPICAL_PROMPT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Lengths are in tokens, and the longest there can be."""

    prompt: int
    shared_prompt: int
    """Tokens that all prompts begin with: computed once for all that are computed together."""
    completion: int
    num_prompts: int
    """Of a step."""
    num_generations: int
    num_evaluated: int
    """Held-out prompts of an evaluation; 0: none."""
    num_samples: int
    """Completions of each of them at the sampling temperature."""
    process_bytes: int
    """Held by the process beside the model: Python, torch, the tokenizer, the task."""
    is_restricted: bool
    """Tokens are drawn from a part of the vocabulary (top-p, top-k, min-p, penalties), which takes copies of logits."""
    samples_per_loss: int = 1
    """Completions of a prompt that a micro-batch cannot be without, if it has one of them."""
    trains_entropy: bool = False
    """The head keeps a gradient of the entropy too."""
    longest_example: int = 0
    """Of a cold start's worked examples; 0: there is none."""
    holds_primed_policy: bool = False
    """The adapter as the cold start left it is kept beside the trained one."""
    worker_bytes: int = 0
    """Held by the worker processes of rewards, which are counted in the budget."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        prompt: int = _TYPICAL_PROMPT,
        shared_prompt: int = 0,
        process_bytes: int = FRAMEWORK,
        longest_example: int = 0,
        worker_bytes: int = 0,
    ) -> Workload:
        sampling = config.sampling
        return cls(
            prompt=prompt,
            shared_prompt=shared_prompt,
            completion=sampling.max_completion_length,
            num_prompts=config.prompts_per_step,
            num_generations=sampling.num_generations,
            num_evaluated=config.evaluation.num_problems,
            num_samples=config.evaluation.num_samples,
            process_bytes=process_bytes,
            is_restricted=sampling.top_p < 1
            or sampling.top_k > 0
            or sampling.min_p is not None
            or sampling.repetition_penalty != 1,
            samples_per_loss=config.algorithm.samples_per_loss,
            trains_entropy=config.algorithm.trains_entropy,
            longest_example=longest_example,
            holds_primed_policy=config.holds_primed_policy,
            worker_bytes=worker_bytes,
        )

    @property
    def longest(self) -> int:
        return self.prompt + self.completion

    def filled_by_examples(self, tokens: int) -> int:
        """What worked examples fill at most of a micro-batch of `tokens`; the longest one always goes in."""
        return max(self.longest_example, tokens)

    @property
    def step_tokens(self) -> int:
        """All tokens of a step, shared ones once."""
        group = self.prompt - self.shared_prompt + self.num_generations * self.completion
        return self.shared_prompt + self.num_prompts * group

    @property
    def most_sequences(self) -> int:
        """More are never decoded side by side."""
        return max(self.num_prompts * self.num_generations, self.num_evaluated * self.num_samples)

    def live_prompt_tokens(self, concurrent: int) -> int:
        """Tokens of the prompts whose completions can be under way at one time."""
        training = min(self.num_prompts, math.ceil(concurrent / self.num_generations) + 1)
        # The greedy evaluation has one completion a prompt.
        evaluating = min(self.num_evaluated, concurrent)
        return self.shared_prompt + max(training, evaluating) * (self.prompt - self.shared_prompt)

    def prefix(self, tokens: int) -> int:
        """The most that micro-batches of `tokens` share, computed once for all; 0: each computes what it needs."""
        is_one = self.filled(tokens) >= self.filled(sys.maxsize)
        return 0 if is_one or self.prompt <= LEAST_PREFIX else self.prompt - 1

    def filled(self, tokens: int) -> int:
        """What sequences of full length fill of a micro-batch of at most `tokens`; the longest one always goes in, with
        those it has a joint loss with.

        Counted as `batching.pack` counts: room for more would hold other tokens only where sequences are shorter.
        """
        used = self.longest - 1
        for number in range(1, self.num_prompts * self.num_generations):
            unshared = self.prompt - self.shared_prompt if number % self.num_generations == 0 else 0
            more = unshared + self.completion + MIN_SHARED - 2
            if used + more > tokens and number >= self.samples_per_loss:
                break
            used += more
        return used
