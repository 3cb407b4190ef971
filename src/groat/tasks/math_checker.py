"""What a worker runs for `math_answer`: math-verify on one answer and one reference.

Its own time limits are switched off: they use SIGALRM, which does not stop a long multiplication. The worker's do.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from groat.tasks.explained import shortened
from groat.tasks.math_answers import as_latex

logging.getLogger("math_verify").setLevel(logging.ERROR)  # its advice about time limits

_PLAIN_NUMBER = re.compile(r"[-+0-9.,\s/()%*\u2212]{1,200}")
_WAYS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def judge(given: str, wanted: str, decimals: int, strict: bool, sets_from_relations: bool) -> tuple[float | None, str]:
    """1 or 0 and why; None where the reference cannot be read."""
    expected, found = _parsed(_reference(wanted)), _parsed(given)
    if not expected:
        return None, f"math-verify cannot read the row's answer {shortened(wanted, 60)!r}"
    if not found:
        return 0.0, "no mathematical expression found"
    is_right = verify(
        expected,
        found,
        float_rounding=decimals,
        strict=strict,
        allow_set_relation_comp=sets_from_relations,
        timeout_seconds=0,
    )
    shown, other = shortened(str(found[-1]), 60), shortened(str(expected[-1]), 60)
    return (1.0, f"{shown} equals {other}") if is_right else (0.0, f"{shown} does not equal {other}")


def _reference(wanted: str) -> str:
    """A bare reference is LaTeX, unless it is a number: `1,234.5` is read as people write it."""
    return wanted if _PLAIN_NUMBER.fullmatch(wanted) else as_latex(wanted)


def _parsed(text: str) -> list[Any]:
    return parse(text, _WAYS, parsing_timeout=0)
