"""Making text from a model safe to show in a terminal."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but newline and tab, delete, C1: the escapes that command a terminal
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible; reorder a line
    "\U000e0000-\U000e007f"  # invisible tags
    "]"
)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without control characters, bidi overrides and invisible ones; newlines stay, tabs become spaces."""
    return _LONE_SURROGATE.sub("\ufffd", _UNPRINTABLE.sub("", text).expandtabs(4))


def one_line(text: str) -> str:
    """The same, with every run of white space as one space."""
    return " ".join(printable(text).split())
