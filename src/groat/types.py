"""What flows through a step, in order: Problem, Prompt, Completion, Reward, Group, Sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

Message = Mapping[str, str]
"""One chat turn: `{"role": ..., "content": ...}`."""


StorageKind = Literal["f32", "bf16", "int8", "nf4"]
"""How a frozen weight matrix is stored, from most bytes to fewest: 4, 2, 1 and about half a byte per weight."""
StorageChoice = StorageKind | Literal["dynamic"]
"""How a model's matrices are stored: all in one kind, or each in the one that a measurement finds best."""

Optim = Literal["adamw_torch_fused", "adamw_8bit"]
"""AdamW with its moments in fp32 or in 8 bits, by transformers' names."""

KVStorage = Literal["f32", "int8"]
"""How keys and values are kept; int8: rounded, with a scale for each head of a token."""

Compute = Literal["f32", "int8"]
"""What products of a quantized matrix are computed in; int8: activations are rounded too, a scale per row and 64."""


class UserError(Exception):
    """Something the user can put right. Its text says what, where and what to do; the command line exits with 2."""


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row of a dataset: what we ask, and the columns a reward function may look at."""

    id: str
    prompt: str | tuple[Message, ...]
    """Plain text, or chat turns."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Every other column of the row, such as `answer`; passed to reward functions by name."""

    @property
    def is_conversational(self) -> bool:
        return not isinstance(self.prompt, str)

    @property
    def plain_prompt(self) -> str | list[dict[str, str]]:
        """The prompt for other people's code, which may change what it gets: chat turns are made anew each time."""
        return self.prompt if isinstance(self.prompt, str) else [dict(message) for message in self.prompt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A problem rendered by the chat template and encoded."""

    problem: Problem
    token_ids: tuple[int, ...]
    most_tokens: int | None = None
    """A completion of it may have no more tokens than this, whatever others may have; None: as many as others."""


class Span(NamedTuple):
    """The tokens `[start, end)`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What the model asked for. Arguments are as it wrote them: nobody has checked them."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of a completion that is a conversation."""

    role: str
    """`assistant`: the model wrote it; anything else: its environment did."""
    content: str
    calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn: the tools it asked for."""
    has_failed: bool = False
    """Of an environment's turn: it tells of a mistake, not a result."""

    @property
    def is_models(self) -> bool:
        return self.role == "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer. Every per-token tuple has an item for each drawn token: those outside of `replies`."""

    token_ids: tuple[int, ...]
    """The stop tokens included, where they were drawn."""
    sampler_logprobs: tuple[float, ...]
    """Under the distribution each token was drawn from (after top-p, top-k, min-p, penalty), in nats."""
    policy_logprobs: tuple[float, ...]
    """Under the plain policy at the sampling temperature: what the learner must reproduce, in nats."""
    text: str
    """Without stop token or stop string; of several turns, the last one."""
    finish_reason: FinishReason
    policy_version: int
    old_logprobs: tuple[float, ...] | None = None
    """The learner's log-probs before the first update on this completion."""
    reference_logprobs: tuple[float, ...] | None = None
    """The log-probs with the adapter off."""
    entropies: tuple[float, ...] | None = None
    """Of the distribution that each token was drawn from, before the first update on this completion, in nats."""
    values: tuple[float, ...] | None = None
    """What a value model expected before each token of the rewards from there to the end, before the first update."""
    replies: tuple[Span, ...] = ()
    """Tokens that an environment wrote, in order. The model reads them; no loss, figure or count is about them."""
    turns: tuple[Turn, ...] = ()
    """The conversation, where an environment was there to answer; else empty."""
    environment: Any = field(default=None, compare=False, repr=False)
    """What it talked to, for reward functions that ask for `environments`; it is not recorded."""

    @property
    def num_drawn(self) -> int:
        return len(self.token_ids) - sum(end - start for start, end in self.replies)

    @property
    def drawn_places(self) -> list[int]:
        """Where in token_ids the drawn tokens are."""
        starts, ends = (0, *(reply.end for reply in self.replies)), (*(reply.start for reply in self.replies), None)
        places = range(len(self.token_ids))
        return [place for start, end in zip(starts, ends, strict=True) for place in places[start:end]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What one completion earned: the weighted total and each function's own value (None: not applicable)."""

    total: float
    parts: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why, for the functions that say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The completions of one prompt; rewards line up with completions."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...] = ()

    def with_rewards(self, rewards: tuple[Reward, ...]) -> Group:
        if len(rewards) != len(self.completions):
            raise ValueError(f"{len(rewards)} rewards for {len(self.completions)} completions")
        return replace(self, rewards=rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One completion with its credit. Samples with equal prompts share its computation when packed."""

    prompt: Prompt
    completion: Completion
    advantages: tuple[float, ...]
    """One per drawn token."""
    returns: tuple[float, ...] | None = None
    """What a value model is drawn towards, one per drawn token; None: there is none."""
    bundle: int | None = None
    """Samples with the same number have one joint loss, and are never put into different micro-batches."""

    @property
    def num_tokens(self) -> int:
        """Drawn ones: those that a loss is about."""
        return self.completion.num_drawn
