"""Rewards for how long a text is and how much it repeats itself; none looks at whether it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from groat.tasks.built_rewards import BuiltReward, text_reward, texts_of
from groat.tasks.explained import Explained
from groat.tasks.verifiers import Completions
from groat.types import UserError

UNITS = ("tokens", "words", "characters")
"""What lengths are counted in. Tokens include the stop token."""


def soft_overlong(*, max_length: int, cache: int) -> BuiltReward:
    """The soft overlong punishment of DAPO (arXiv:2503.14476, eq. 13), in tokens: 0 up to max_length - cache, then
    falling in a straight line to -1 at max_length, -1 beyond."""
    if not 0 < cache <= max_length:
        raise UserError(f"soft_overlong: cache must lie between 1 and max_length ({max_length}), got {cache}")

    def punishment(length: int) -> float:
        return -min(1.0, max(0.0, (length - (max_length - cache)) / cache))

    return _length_reward("soft_overlong", "tokens", punishment)


def length_near(*, target: int, tolerance: int = 0, unit: str = "tokens") -> BuiltReward:
    """1 within `tolerance` of the target length, falling in a straight line to 0 at `target` further away."""
    if target < 1 or tolerance < 0:
        raise UserError(f"length_near: target must be 1 or more and tolerance 0 or more, got {target} and {tolerance}")

    def closeness(length: int) -> float:
        return max(0.0, 1.0 - max(0, abs(length - target) - tolerance) / target)

    return _length_reward("length_near", unit, closeness)


def repetition(*, ngram: int = 3, worst: float = -1.0) -> BuiltReward:
    """`worst` times the share of the text's runs of `ngram` words that came before (arXiv:2502.03373, section 4.1).

    0 for a text in which no run comes twice. Upper and lower case are the same.
    """
    if ngram < 1 or worst > 0:
        raise UserError(f"repetition: ngram must be 1 or more and worst 0 or less, got {ngram} and {worst}")

    def rule(text: str) -> Explained:
        words = text.lower().split()
        runs = [tuple(words[place : place + ngram]) for place in range(len(words) - ngram + 1)]
        repeated = len(runs) - len(set(runs))
        share = repeated / len(runs) if runs else 0.0
        return Explained(worst * share, f"{repeated} of {len(runs)} runs of {ngram} words came before")

    return text_reward("repetition", rule)


def _length_reward(name: str, unit: str, value: Callable[[int], float]) -> BuiltReward:
    if unit not in UNITS:
        raise UserError(f"{name}: unit is {unit!r}; use one of {', '.join(UNITS)}")

    def score(completions: Completions, completion_ids: Sequence[Sequence[int]]) -> list[float | None]:
        answers = zip(texts_of(completions), completion_ids, strict=True)
        lengths = [_length(unit, *answer) for answer in answers]
        return [Explained(value(length), f"{length} {unit}") for length in lengths]

    return BuiltReward(name, score, ("completion_ids",))


def _length(unit: str, text: str, token_ids: Sequence[int]) -> int:
    if unit == "tokens":
        return len(token_ids)
    return len(text.split()) if unit == "words" else len(text)
