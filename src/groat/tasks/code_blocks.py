"""The program in a completion: its last fenced block of code."""

from __future__ import annotations

READ_CHARACTERS = 200_000
"""Only the last ones of a completion are looked at."""

_FENCE = "```"


def last_code_block(text: str) -> str | None:
    """Of the last block that is closed; of one that the completion ends in, if none is. None: there is no block."""
    closed: str | None = None
    lines: list[str] | None = None
    for line in text[-READ_CHARACTERS:].split("\n"):
        if not line.lstrip().startswith(_FENCE):
            if lines is not None:
                lines.append(line)
        elif lines is None:
            lines = []
        else:
            closed, lines = "\n".join(lines), None
    return "\n".join(lines) if closed is None and lines is not None else closed
