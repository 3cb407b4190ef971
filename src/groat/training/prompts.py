"""From problems to what the model reads."""

from __future__ import annotations

from collections.abc import Sequence

from groat.model.tokenizer import Tokenizer
from groat.tasks.environments import Environments
from groat.types import Problem, Prompt


def encode(problems: Sequence[Problem], tokenizer: Tokenizer, environments: Environments | None = None) -> list[Prompt]:
    """Render and encode every problem's prompt, with what the model has to know of its environment."""
    if environments is None:
        return [Prompt(problem=one, token_ids=tuple(tokenizer.encode_prompt(one.prompt))) for one in problems]
    schemas = environments.schemas
    return [
        Prompt(problem=one, token_ids=tuple(tokenizer.encode_prompt(environments.shown(one), schemas)))
        for one in problems
    ]
