"""The section `cold_start`: worked examples that are learned before reinforcement learning begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from groat.config.strict import Strict, above_zero, at_least, within


@dataclass(frozen=True, kw_only=True)
class ColdStartConfig(Strict):
    """A short supervised phase on the same adapter (DeepSeek-R1, arXiv:2501.12948, section 2.3.1). The optimizer is
    training's, but for the learning rate, and reinforcement learning begins with a new one."""

    examples: str | None = None
    """File of worked examples (.jsonl, .csv, .parquet): rows with `messages`, of which the assistant's turns are
    learned, or with `prompt` and `completion`, of which the completion is. None: no cold start."""
    num_train_epochs: int = 2
    """How often every example is learned."""
    max_steps: int | None = None
    """Steps of the cold start, in place of num_train_epochs."""
    batch_size: int = 8
    """Examples in a step."""
    max_length: int = 1024
    """Tokens of an example; longer ones are left out and counted, never cut."""
    learning_rate: float = 2e-4
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    warmup_ratio: float = 0.0
    """Share of the cold start's steps over which its learning rate rises from 0."""
    save_steps: int = 10
    """Steps between checkpoints of the cold start; one is always written at its end."""
    reference: Literal["primed", "base"] = "primed"
    """What algorithm.beta holds the policy to in reinforcement learning: the adapter as the cold start left it, or the
    model without an adapter."""

    def __post_init__(self) -> None:
        at_least("cold_start.num_train_epochs", self.num_train_epochs, 1)
        at_least("cold_start.max_steps", self.max_steps, 1)
        at_least("cold_start.batch_size", self.batch_size, 1)
        at_least("cold_start.max_length", self.max_length, 2)
        above_zero("cold_start.learning_rate", self.learning_rate)
        within("cold_start.warmup_ratio", self.warmup_ratio, 0, 1)
        at_least("cold_start.save_steps", self.save_steps, 1)

    def num_steps(self, num_examples: int) -> int:
        """Of the cold start; 0 where there is none."""
        if not num_examples:
            return 0
        return self.max_steps or self.num_train_epochs * -(-num_examples // self.batch_size)
