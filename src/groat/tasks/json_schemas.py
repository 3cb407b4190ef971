"""A reward for texts that are JSON of a given shape."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groat.tasks.built_rewards import BuiltReward
from groat.tasks.checked_rewards import Call, Checking, checked_reward, need
from groat.tasks.explained import Explained
from groat.tasks.extraction import last_tag
from groat.types import UserError

LONGEST_TEXT = 100_000
"""Characters; a longer text is not read."""
_FENCE = "```"


def json_schema(
    *,
    schema: str,
    tag: str | None = None,
    timeout_seconds: float = 2.0,
    memory_mib: int = 512,
    num_workers: int = 2,
) -> BuiltReward:
    """1 if the text, after any thinking and without a code fence around it, is JSON that the schema allows, else 0.

    `schema` is a JSON Schema (draft 2020-12 unless it names another) or the path of a .json file with one. `tag` looks
    inside the last `<tag>...</tag>`. References lead within the schema only: nothing is fetched. Checked in a worker
    process, because a schema's patterns can take forever.
    """
    need("json_schema", "jsonschema", "jsonschema", "json-schema")
    loaded = _loaded(schema)
    checking = Checking(
        rule="groat.tasks.json_schemas:judge",
        resident_mib=39,
        timeout_seconds=timeout_seconds,
        memory_mib=memory_mib,
        num_workers=num_workers,
    )

    def ask(text: str, _: Any) -> Call | Explained:
        if len(text) > LONGEST_TEXT:
            return Explained(0.0, f"longer than {LONGEST_TEXT} characters")
        piece = text.rpartition("</think>")[2] if tag is None else last_tag(text, tag)
        if piece is None:
            return Explained(0.0, f"no <{tag}>...</{tag}> found")
        return {"text": _unfenced(piece), "schema": loaded}

    return checked_reward("json_schema", checking, ask)


def judge(text: str, schema: Mapping[str, Any] | bool) -> tuple[float, str]:
    """What the worker runs."""
    jsonschema, referencing = importlib.import_module("jsonschema"), importlib.import_module("referencing")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return 0.0, f"is not JSON: {error}"
    checker = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    fault = jsonschema.exceptions.best_match(checker(schema, registry=referencing.Registry()).iter_errors(value))
    return (1.0, "is as the schema says") if fault is None else (0.0, f"{fault.json_path}: {fault.message[:300]}")


def _loaded(schema: str) -> Mapping[str, Any] | bool:
    try:
        text = Path(schema).read_text(encoding="utf-8") if schema.endswith(".json") else schema
        loaded = json.loads(text)
    except OSError as error:
        raise UserError(f"json_schema: cannot read {schema}: {error.strerror}. Check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"json_schema: the schema is not JSON: {error}") from error
    jsonschema = importlib.import_module("jsonschema")
    checker = jsonschema.validators.validator_for(loaded, default=jsonschema.Draft202012Validator)
    try:
        checker.check_schema(loaded)
    except jsonschema.exceptions.SchemaError as error:
        raise UserError(f"json_schema: this is no JSON Schema: {error.json_path}: {error.message}") from error
    return loaded


def _unfenced(text: str) -> str:
    """The text between ```json and ```, where it is in such a fence."""
    stripped = text.strip()
    if not (stripped.startswith(_FENCE) and stripped.endswith(_FENCE) and "\n" in stripped):
        return stripped
    return stripped.removesuffix(_FENCE).partition("\n")[2]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
