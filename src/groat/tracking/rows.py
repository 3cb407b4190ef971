"""What a run records, one frozen row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from groat.types import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    """One completion of a training step, with what it earned."""

    group_index: int
    """Which prompt of the step."""
    completion_index: int
    """Which completion of the group."""
    problem_id: str
    prompt_text: str
    text: str
    finish_reason: str
    num_tokens: int
    reward: float
    advantage: float
    policy_version: int
    parts: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Each reward function's own value (None: not applicable)."""
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why, for the reward functions that say so."""
    turns: tuple[Turn, ...] = ()
    """Of a completion that is a conversation: those of the role `assistant` are the model's, the others were written by
    its environment and not trained on. `text` is then the model's last turn."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One figure measured on held-out problems."""

    value: float
    low: float
    """Lower end of the 95% interval."""
    high: float
    problems: int
    """How many problems it was measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRow:
    """One answer given during an evaluation, kept to be read."""

    problem_id: str
    kind: str
    """How it was drawn, `greedy`; `judged` is greedy too, and compared with the answer before training."""
    prompt_text: str
    text: str
    correct: bool
    """Or, where it was judged, better than the answer before training."""
    reference: str
    """The answer that was wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling that happened at one moment."""

    step: int
    time: float
    """Seconds since 1970."""
    kind: str
    message: str
