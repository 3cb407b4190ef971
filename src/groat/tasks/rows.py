"""Rows of a dataset become problems: read from a .jsonl file or given from Python, checked, and split."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from groat.tasks.reward_arguments import KEYWORDS
from groat.types import Message, Problem, UserError

LONGEST_LINE_BYTES = 16 * 2**20
_A_ROW = 'it needs one row per line, such as {"prompt": "What is 2 + 3?", "answer": "5"}'

logger = logging.getLogger("groat")


def read_jsonl(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """One row per line, read as it is asked for; blank lines are skipped."""
    try:
        with Path(path).open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                text = _decoded(line, f"{path}, line {number}")
                if text:
                    yield _parsed(text, f"{path}, line {number}")
    except OSError as error:
        place = "" if Path(path).is_absolute() else f" (looked for in {Path.cwd()})"
        raise UserError(f"cannot read {path}{place}: {error.strerror}. Check the path") from error


def problems_from_rows(
    rows: Iterable[Mapping[str, Any]], source: str, system_prompt: str | None = None
) -> tuple[Problem, ...]:
    """Rows whose prompt cannot be used are left out, counted and logged; none left is an error."""
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    identities: Counter[str] = Counter()
    number = 0
    for number, row in enumerate(rows, start=1):
        _check_columns(row, f"{source}, row {number}")
        reason = _unusable(row)
        if reason is None:
            problems.append(_problem(row, identities, f"{source}, row {number}", system_prompt))
        else:
            left_out[reason] += 1
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    if not problems:
        raise UserError(f"{source} has no row to use: {reasons}" if reasons else f"{source} is empty: {_A_ROW}")
    if reasons:
        logger.warning("%s: left out %d of %d rows: %s", source, left_out.total(), number, reasons)
    return tuple(problems)


def split_held_out(problems: Sequence[Problem], fraction: float) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Train and held-out: by a hash of the prompt, so equal prompts stay together and no seed changes the split.

    The held-out ones come in the order of the hash, so that the first few are a fair share.
    """
    by_hash: dict[str, list[Problem]] = {}
    for problem in problems:
        by_hash.setdefault(_digest(problem.prompt), []).append(problem)
    num_held_out = min(math.ceil(len(by_hash) * fraction), len(by_hash) - 1)
    chosen = sorted(by_hash)[:num_held_out]
    held_out = tuple(problem for key in chosen for problem in by_hash[key])
    gone = set(chosen)
    return tuple(problem for problem in problems if _digest(problem.prompt) not in gone), held_out


def _decoded(line: bytes, place: str) -> str:
    if len(line) > LONGEST_LINE_BYTES:
        raise UserError(f"{place} is longer than {LONGEST_LINE_BYTES // 2**20} MiB: one row per line is expected")
    try:
        return line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text ({error.reason}): save the file as UTF-8") from error


def _parsed(text: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is not JSON: {error.msg} at character {error.pos + 1}; {_A_ROW}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f'{place} is a JSON {type(row).__name__}, not an object such as {{"prompt": ...}}')
    return cast("dict[str, Any]", row)


def _check_columns(row: Any, place: str) -> None:
    if not isinstance(row, Mapping):
        raise UserError(f"{place} is a {type(row).__name__}, not a mapping with a `prompt` column")
    columns = [str(name) for name in cast("Mapping[Any, Any]", row)]
    if "prompt" not in columns:
        near = next((name for name in ("question", "problem", "instruction", "input") if name in columns), None)
        hint = (
            f": rename `{near}` to `prompt`, or for a file set task.prompt_column to {near}"
            if near
            else ": name the column that holds the question `prompt`"
        )
        raise UserError(f"{place} has no `prompt` column, only {', '.join(columns) or 'nothing'}{hint}")
    for name in columns:
        if name in KEYWORDS:
            raise UserError(f"{place} has a column `{name}`, a name that reward functions get from us: rename it")


def _unusable(row: Mapping[str, Any]) -> str | None:
    """Why the row is left out, or None."""
    texts = _texts(row["prompt"])
    if texts is None:
        return "whose prompt is neither text nor chat turns"
    if not any(text.strip() for text in texts):
        return "with an empty prompt"
    texts += [value for name, value in row.items() if name != "prompt" and isinstance(value, str)]
    if any(_has_lone_surrogate(text) for text in texts):
        return "with broken characters (lone surrogates)"
    return None


def _texts(prompt: Any) -> list[str] | None:
    """The texts of a prompt; None if it is no prompt."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list | tuple):
        return None
    texts: list[str] = []
    for turn in cast("Sequence[Any]", prompt):
        if not isinstance(turn, Mapping):
            return None
        message = cast("Mapping[str, Any]", turn)
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str) or _has_lone_surrogate(role):
            return None
        texts.append(content)
    return texts


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _problem(row: Mapping[str, Any], identities: Counter[str], place: str, system_prompt: str | None) -> Problem:
    columns = {str(name): value for name, value in row.items() if name != "prompt"}
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        prompt = tuple({"role": turn["role"], "content": turn["content"]} for turn in prompt)
    return Problem(
        id=_identity(prompt, columns, identities),
        prompt=prompt if system_prompt is None else _after_system_turn(prompt, system_prompt, place),
        columns=columns,
    )


def _after_system_turn(prompt: str | tuple[Message, ...], system_prompt: str, place: str) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        raise UserError(
            f"task.system_prompt is set, but the prompt of {place} is plain text, which has no system turn: "
            'write prompts as chat turns, [{"role": "user", "content": ...}]'
        )
    if prompt[0]["role"] == "system":
        raise UserError(f"task.system_prompt is set, but the prompt of {place} begins with a system turn: drop one")
    return ({"role": "system", "content": system_prompt}, *prompt)


def _identity(prompt: str | tuple[Message, ...], columns: Mapping[str, Any], identities: Counter[str]) -> str:
    """The row's `id` column or a hash of its prompt; repeated ones get a number."""
    own = columns.get("id")
    identity = str(own) if isinstance(own, str | int) and str(own) else f"row-{_digest(prompt)[:12]}"
    identities[identity] += 1
    if identities[identity] == 1:
        return identity
    return _identity(prompt, {"id": f"{identity}#{identities[identity]}"}, identities)


def _digest(prompt: str | tuple[Message, ...]) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps([[turn["role"], turn["content"]] for turn in prompt])
    return hashlib.sha256(text.encode()).hexdigest()
