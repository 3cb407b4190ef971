"""Does a model look back at what it wrote? Counts of phrases that sound like it, and of answers that change on the way.

A heuristic, and called one wherever it is shown: a model can write "wait" without thinking again, and think again
without writing it. The counts DeepSeek-R1 (arXiv:2501.12948, figure 3 and its "aha moment") made people look for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from groat.tasks.verifiers import READ_CHARACTERS

PREFIX = "aha_heuristic/"
"""Of the figures' names: whatever shows them, says what they are."""
_ANSWERS = re.compile(
    r"\\boxed\{([^{}]{1,100})\}"
    r"|<answer>([^<]{1,200})</answer>"
    r"|\banswer[ \t]{0,3}(?:is|:|=)[ \t:*$]{0,5}([^\s,;$]{1,60})",
    re.IGNORECASE,
)
_CURLY = "\u2019"
_ENDS = " \t\n.,;:!?*$`'\""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflections:
    """What was counted in one text."""

    phrases: int
    """How often one of the phrases stands there."""
    revisions: int
    """How often an answer is given that differs from the one given before it."""


class ReflectionCounter:
    """Counts whole words, in either case; of longer texts, the last 10,000 characters."""

    def __init__(self, phrases: Iterable[str]) -> None:
        # The longest first, so that "let me check again" is one phrase and not another inside of it.
        words = sorted({_spaced(phrase) for phrase in phrases}, key=len, reverse=True)
        joined = "|".join(r"[ \t]{1,3}".join(map(re.escape, phrase.split())) for phrase in words)
        self._phrases = re.compile(rf"(?<!\w)(?:{joined})(?!\w)" if words else r"(?!)", re.IGNORECASE)

    def count(self, text: str) -> Reflections:
        read = text[-READ_CHARACTERS:]
        answers = [_plain(next(filter(None, groups))) for groups in _ANSWERS.findall(read) if any(groups)]
        changes = sum(before != after for before, after in pairwise(answers))
        return Reflections(phrases=len(self._phrases.findall(read.replace(_CURLY, "'"))), revisions=changes)


def reflection_metrics(counter: ReflectionCounter, texts: Sequence[str]) -> dict[str, float]:
    """Of a step's completions, by names that say what they are: phrases and revisions per completion, and the share of
    completions with any."""
    if not texts:
        return {}
    counts = [counter.count(text) for text in texts]
    return {
        f"{PREFIX}phrases": sum(one.phrases for one in counts) / len(counts),
        f"{PREFIX}share_with_phrases": sum(one.phrases > 0 for one in counts) / len(counts),
        f"{PREFIX}revisions": sum(one.revisions for one in counts) / len(counts),
        f"{PREFIX}share_with_revisions": sum(one.revisions > 0 for one in counts) / len(counts),
    }


def _spaced(phrase: str) -> str:
    return " ".join(phrase.replace(_CURLY, "'").split())


def _plain(answer: str) -> str:
    """As it is compared: without what stands around it."""
    return re.sub(r"\s+", " ", answer).strip(_ENDS).casefold()
