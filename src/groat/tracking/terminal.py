"""Printing tables and colours where they are understood, and plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console

from groat.tracking.plain_stream import PlainStream

_PLAIN_WIDTH = 100
# What is printed may come from a model: never markup, never emoji names, never guessed highlights.
_AS_WRITTEN: Mapping[str, Any] = {"markup": False, "emoji": False, "highlight": False, "force_jupyter": False}


def rich_console(stream: TextIO) -> Console:
    """Prints to a terminal with colours, to anything else without a single control code."""
    if can_redraw(stream):
        return Console(file=stream, force_terminal=True, **_AS_WRITTEN)
    plain: Any = PlainStream(stream)
    return Console(file=plain, force_terminal=False, color_system=None, width=_PLAIN_WIDTH, **_AS_WRITTEN)


def can_redraw(stream: TextIO) -> bool:
    """A terminal that understands cursor movement and UTF-8. FORCE_COLOR does not turn a pipe into one."""
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return stream.isatty() and encoding == "utf8" and not Console(file=stream).is_dumb_terminal
