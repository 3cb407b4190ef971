"""A stream that a run can write to whatever becomes of its reader."""

from __future__ import annotations

from typing import TextIO


class PlainStream:
    """Characters the stream cannot hold become `?`; when its reader is gone (`groat train | head`), the run goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._is_open = True

    def write(self, text: str) -> int:
        if self._is_open:
            try:
                self._stream.write(_without_padding(text).encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):
                self._is_open = False
        return len(text)

    def flush(self) -> None:
        if self._is_open:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._is_open = False

    def isatty(self) -> bool:
        return False


def _without_padding(text: str) -> str:
    """Tables fill their lines up with spaces, which a log has no use for."""
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))
