"""A reward that says why: a float that carries a short sentence, which is stored with the rollout."""

from __future__ import annotations

LONGEST_WHY = 200
"""Characters kept of a reason."""


class Explained(float):
    """Return these instead of floats from any reward function; whoever does not ask for `why` sees a float."""

    __slots__ = ("why",)

    why: str

    def __new__(cls, value: float, why: str) -> Explained:
        explained = super().__new__(cls, value)
        explained.why = shortened(why)
        return explained


def shortened(text: str, most: int = LONGEST_WHY) -> str:
    """One line, with what is too long left out at its end."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def why_of(value: object) -> str | None:
    return value.why if isinstance(value, Explained) else None
