"""A piece of work, the same for every side: chats, how many completions of each, and how long those are."""

from __future__ import annotations

import bisect
import random
from dataclasses import dataclass

from groat.cli.bench import GROUP_SIZE, NEW_TOKENS, QUESTIONS
from groat.model.tokenizer import Tokenizer
from groat.types import UserError

_WORDS = ("time", "house", "water", "three", "green", "people", "where", "small", "night", "seven", "light", "over")
_FILLERS = (" a", "7", "!", " ?", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Completions for each of some questions."""

    questions: tuple[str, ...]
    """Each is a chat of one user turn."""
    group_size: int
    new_tokens: int
    """Of every completion, exactly: no stop token is drawn before."""

    @property
    def num_completions(self) -> int:
        return len(self.questions) * self.group_size

    @property
    def num_new_tokens(self) -> int:
        return self.num_completions * self.new_tokens


W1 = Work(questions=QUESTIONS, group_size=GROUP_SIZE, new_tokens=NEW_TOKENS)


def short_questions(count: int) -> tuple[str, ...]:
    """The first ones of W1."""
    if count > len(QUESTIONS):
        raise UserError(f"{count} prompts were asked for, and W1 has {len(QUESTIONS)}: give --prompt-tokens for others")
    return QUESTIONS[:count]


def long_questions(count: int, num_tokens: int, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Questions of random words, each a chat of exactly `num_tokens` tokens, the template's own included."""
    return tuple(_question(num_tokens, tokenizer, random.Random(number)) for number in range(count))


def _question(num_tokens: int, tokenizer: Tokenizer, generator: random.Random) -> str:
    words = generator.choices(_WORDS, k=num_tokens)
    num_too_many = bisect.bisect_right(
        range(num_tokens + 1), num_tokens, key=lambda num: prompt_length(" ".join(words[:num]), tokenizer)
    )
    text: str | None = " ".join(words[: max(0, num_too_many - 1)])
    while text is not None and prompt_length(text, tokenizer) != num_tokens:
        text = _a_little_longer(text, num_tokens, tokenizer)
    if text is None:
        shortest = prompt_length("", tokenizer)
        raise UserError(f"no prompt of exactly {num_tokens} tokens was found; the chat template alone has {shortest}")
    return text


def _a_little_longer(text: str, num_tokens: int, tokenizer: Tokenizer) -> str | None:
    """The text with a filler that brings it closer to so many tokens; None if there is none."""
    length = prompt_length(text, tokenizer)
    longer = (text + filler for filler in _FILLERS)
    return next((more for more in longer if length < prompt_length(more, tokenizer) <= num_tokens), None)


def prompt_length(question: str, tokenizer: Tokenizer) -> int:
    """Tokens of the question as a chat."""
    return len(tokenizer.encode_prompt(({"role": "user", "content": question},)))
