"""How a run's end is told on the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from groat.types import UserError


def note_on_failure(error: BaseException, run: Path | None) -> None:
    """Say where the run is and how to go on; Python prints an exception's notes below its traceback."""
    if run is not None and not isinstance(error, UserError):
        error.add_note(f"the run is in {run}; go on with it: groat resume {run}")


def summary_json(summary: Any) -> str:
    """A run's summary (a dataclass) as one line."""
    return json.dumps(dataclasses.asdict(summary), default=str)
