"""A sampler without a model: it plays back prepared answers and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from groat.model.lora import Adapter
from groat.sampling.base import Progress, SamplingParams, no_progress
from groat.types import Completion, FinishReason, Group, Prompt

AnswerFunction = Callable[[Prompt, int, int], str]
"""Called with the prompt, its seed and the completion's index."""
Answers = Mapping[str, Sequence[str]] | Sequence[str] | AnswerFunction
"""Answers by problem id, the same ones for every problem, or a function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerCall:
    """What one call to `sample` asked for."""

    prompts: tuple[Prompt, ...]
    policy_version: int | None
    """None: the reference policy."""
    params: SamplingParams
    seeds: tuple[int, ...]


class ScriptedSampler:
    """A Sampler whose completion i of a prompt is its i-th answer; it keeps the rules that real samplers keep.

    Text becomes tokens by `encode` (UTF-8 bytes unless given), and `stop_token_id` is the last token of an answer that
    fits. An answer of more than max_completion_length tokens is cut by `decode`, and has finish reason LENGTH. Every
    token has the log-prob `logprob`.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        encode: Callable[[str], Sequence[int]] = lambda text: list(text.encode()),
        decode: Callable[[Sequence[int]], str] = lambda ids: bytes(ids).decode(errors="replace"),
        stop_token_id: int | None = None,
        logprob: float = -1.0,
    ) -> None:
        self._answers = answers
        self._encode = encode
        self._decode = decode
        self._stop_token_id = stop_token_id
        self._logprob = logprob
        self._is_awake = False
        self.calls: list[SamplerCall] = []
        """Every call to `sample`, in order."""

    @contextmanager
    def awake(self) -> Generator[None]:
        self._is_awake = True
        try:
            yield
        finally:
            self._is_awake = False

    def sample(
        self,
        prompts: Sequence[Prompt],
        adapter: Adapter | None,
        params: SamplingParams,
        seeds: Sequence[int],
        progress: Progress = no_progress,
    ) -> list[Group]:
        """One group per prompt; ValueError where the answers do not suffice."""
        assert self._is_awake, "sample outside of `with sampler.awake()`"
        version = adapter.version if adapter else None
        call = SamplerCall(prompts=tuple(prompts), policy_version=version, params=params, seeds=tuple(seeds))
        self.calls.append(call)
        groups: list[Group] = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            texts = [self._answer(prompt, seed, index) for index in range(params.num_generations)]
            longest = params.most_tokens(prompt)
            completions = tuple(self._completion(text, longest, params.stop, version or 0) for text in texts)
            progress(params.max_completion_length * len(completions))
            groups.append(Group(prompt=prompt, completions=completions))
        return groups

    def _answer(self, prompt: Prompt, seed: int, index: int) -> str:
        if callable(self._answers):
            return self._answers(prompt, seed, index)
        problem = prompt.problem.id
        answers = self._answers.get(problem, ()) if isinstance(self._answers, Mapping) else self._answers
        if index >= len(answers):
            raise ValueError(f"{len(answers)} answers are prepared for problem {problem}; number {index + 1} was asked")
        return answers[index]

    def _completion(self, text: str, longest: int, stops: Sequence[str], version: int) -> Completion:
        stop = next((text.index(stop) for stop in stops if stop in text), None)
        ids = list(self._encode(text))
        ids += [] if self._stop_token_id is None or stop is not None else [self._stop_token_id]
        fits = len(ids) <= longest
        if not fits:
            ids = ids[:longest]
            text, stop = self._decode(ids), None
        return Completion(
            token_ids=tuple(ids),
            sampler_logprobs=(self._logprob,) * len(ids),
            policy_logprobs=(self._logprob,) * len(ids),
            text=text[:stop],
            finish_reason=FinishReason.STOP if fits else FinishReason.LENGTH,
            policy_version=version,
        )
