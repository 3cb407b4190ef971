"""How `fast_generate` draws and what it returns, with vLLM's names and defaults."""

# ruff: noqa: RUF009 - noted() and refused() return dataclasses.field()

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groat.model.lora import Adapter
from groat.sampling import base
from groat.trainers.trl_options import LEAVE_OUT, check_refused, noted, refused


@dataclass(kw_only=True)
class SamplingParams:
    """vLLM's SamplingParams. Not to be confused with `groat.sampling.base.SamplingParams`, which the sampler takes."""

    n: int = 1
    """Completions of each prompt."""
    temperature: float = 1.0
    """0 draws the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 and -1 keep all tokens."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = 16
    """None: as many as the context has room for."""
    min_tokens: int = 0
    stop: str | Sequence[str] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None
    """None: every call draws anew; the same script draws the same."""

    presence_penalty: float = refused(0.0, "repetition_penalty is the penalty there is")
    frequency_penalty: float = refused(0.0, "repetition_penalty is the penalty there is")
    stop_token_ids: Any = refused(None, "stop takes strings; the model's own stop tokens end a completion anyway")
    ignore_eos: bool = refused(False, "min_tokens keeps a completion from ending before so many tokens")
    logprobs: int | None = refused(None, "every completion has its cumulative_logprob")
    prompt_logprobs: int | None = refused(None, LEAVE_OUT)
    bad_words: Any = refused(None, LEAVE_OUT)
    logit_bias: Any = refused(None, LEAVE_OUT)
    allowed_token_ids: Any = refused(None, LEAVE_OUT)
    logits_processors: Any = refused(None, LEAVE_OUT)
    guided_decoding: Any = refused(None, LEAVE_OUT)
    structured_outputs: Any = refused(None, LEAVE_OUT)
    truncate_prompt_tokens: int | None = refused(None, "groat never cuts a prompt; shorten it yourself")
    best_of: int | None = refused(None, "set n, and choose among the completions")
    spaces_between_special_tokens: bool = noted(True, "texts are decoded as the tokenizer does it")
    detokenize: bool = noted(True, "texts are always there")
    output_kind: Any = noted(None, "completions are returned whole")

    def __post_init__(self) -> None:
        check_refused(self)

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def for_sampler(self, most_tokens: int) -> base.SamplingParams:
        """For completions of at most so many tokens."""
        return base.SamplingParams(
            num_generations=self.n,
            max_completion_length=most_tokens,
            min_completion_length=min(self.min_tokens, most_tokens),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p or None,
            repetition_penalty=self.repetition_penalty,
            stop=self.stops,
        )


@dataclass(frozen=True, kw_only=True)
class LoRARequest:
    """An adapter to generate with: what `model.load_lora(path)` returns."""

    lora_name: str
    adapter: Adapter


@dataclass(frozen=True, kw_only=True)
class CompletionOutput:
    """One completion, with vLLM's fields."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    """The stop token included, where one was drawn."""
    cumulative_logprob: float
    """Of its tokens under the distributions they were drawn from, in nats."""
    finish_reason: str
    """stop or length."""


@dataclass(frozen=True, kw_only=True)
class RequestOutput:
    """The completions of one prompt, with vLLM's fields."""

    request_id: str
    prompt: str | None
    """None where token ids were given."""
    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    lora_request: LoRARequest | None
    finished: bool = True
