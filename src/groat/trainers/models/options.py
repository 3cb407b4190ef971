"""Options of Unsloth's and transformers' that change nothing here: a note, or a refusal by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from groat.trainers.trl_options import asks_for_something
from groat.types import UserError

logger = logging.getLogger("groat")


def note_and_refuse(
    call: str,
    given: Mapping[str, Any],
    noted: Mapping[str, str],
    refused: Mapping[str, str],
    silent: Mapping[str, Any],
) -> None:
    """UserError for options that ask for what groat does not do; one log message for those that change nothing.

    An option that is None, False or empty asks for nothing, and one with its value in `silent` needs no word.
    """
    asking = {
        name: value
        for name, value in given.items()
        if asks_for_something(value, False) and not (name in silent and silent[name] == value)
    }
    unknown = [name for name in given if name not in noted and name not in refused]
    problems = [f"{name} is {asking[name]!r}: {refused[name]}" for name in asking if name in refused]
    problems += [f"{name} is no option that groat knows; leave it out" for name in unknown]
    if problems:
        raise UserError(f"{call}: " + "; ".join(problems))
    notes = [f"- {name}={'...' if name == 'token' else repr(value)}: {noted[name]}" for name, value in asking.items()]
    if notes:
        logger.warning("%s: options that make no difference here:\n%s", call, "\n".join(notes))
