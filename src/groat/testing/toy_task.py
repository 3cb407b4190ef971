"""A task that a tiny model learns in a few seconds: write vowels."""

from __future__ import annotations

from typing import Any

from groat.tasks.task import Task, task_from_rows

VOWELS = frozenset("aeiouAEIOU")


def toy_rows(num_problems: int = 16) -> list[dict[str, Any]]:
    """Rows with a `prompt` column in chat turns, all different and all asking the same."""
    return [{"prompt": [{"role": "user", "content": f"Vowels, please! ({number})"}]} for number in range(num_problems)]


def vowel_share(completions: list[Any], **_: Any) -> list[float]:
    """A reward function: the share of each answer's characters that are vowels; 0 for an empty answer."""
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [sum(character in VOWELS for character in text) / max(1, len(text)) for text in texts]


def toy_task(num_problems: int = 16, num_held_out: int = 8) -> Task:
    """The same as a Task. An answer counts as right in evaluations if it holds nothing but vowels."""
    rows = toy_rows(num_problems + num_held_out)
    return task_from_rows(rows[:num_problems], rows[num_problems:] or None, vowel_share, name="vowels")
