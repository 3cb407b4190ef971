"""Where models and inputs are asked to go, and where they stay."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("groat")


def stays_here(device: Any) -> None:
    """A note where something was to leave the CPU; a number type is no place."""
    name = str(device)
    if name.partition(":")[0] in ("cuda", "mps", "xpu", "auto") or name.isdecimal():
        logger.info("to(%s): groat computes on the CPU, and everything stays there", name)
