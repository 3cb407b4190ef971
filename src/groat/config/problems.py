"""What is wrong with a configuration, in words: which field, what it holds, what it should hold."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

from groat.config.algorithms import ALGORITHMS
from groat.config.tree import RunConfig

FROM_ELSEWHERE = {
    "max_prompt_length": "TRL cut longer prompts down to it, before it was removed there; groat never cuts a prompt, "
    "so leave it out",
    "per_device_train_batch_size": "use training.generation_batch_size (completions in a step); what fits in memory at "
    "once is memory.microbatch_tokens",
    "gradient_accumulation_steps": "use training.generation_batch_size (completions in a step); micro-batches are "
    "planned from memory.budget",
    "steps_per_generation": "use training.generation_batch_size (completions in a step) and algorithm.num_iterations",
    "num_train_epochs": "use training.max_steps",
    "optim": "the optimizer is always AdamW, so leave it out",
    "logging_steps": "every step is logged, so leave it out",
    "report_to": "use track.report_to, a list such as [tensorboard]",
    "use_vllm": "groat samples with the model it trains, so leave it out",
    "load_in_4bit": "state memory.budget instead, and groat plans for it",
}
"""Names from TRL and Unsloth that people bring along."""

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (put it in quotes)",
    "tuple": "a list, such as [a, b]",
}


def unknown_field(path: str, flag: str | None = None, algorithm: str = "grpo") -> str:
    """The sentence for a name that no field has; `flag` is how it was written on the command line, `algorithm` the
    kind that was chosen."""
    section, _, leaf = path.rpartition(".")
    others = [kind for kind, options in ALGORITHMS.items() if leaf in _names_of(options) and kind != algorithm]
    if section == "algorithm" and others:
        return (
            f"{flag or path} is an option of {' and '.join(others)}, not of {algorithm}: take it out, or choose "
            "another algorithm.kind"
        )
    if leaf in FROM_ELSEWHERE:
        return f"{flag or path} is not a field of groat: {FROM_ELSEWHERE[leaf]}"
    near = nearest_field(path)
    meant = f"; did you mean {'--' + near.replace('_', '-') if flag else near}?" if near else ""
    return f"{flag or path} is not a field{meant}"


def nearest_field(path: str) -> str | None:
    """The dotted path the user most likely meant, wherever in the tree it lies."""
    paths = _field_paths()
    section, _, leaf = path.rpartition(".")
    # Neighbours first: of two fields that fit alike, the one in the section that was written is meant.
    by_leaf = {
        known.rpartition(".")[2]: known for known in sorted(paths, key=lambda known: known.startswith(section + "."))
    }
    if leaf in by_leaf:
        return by_leaf[leaf]
    close = difflib.get_close_matches(path, paths, 1, 0.8) or difflib.get_close_matches(leaf, by_leaf, 1, 0.7)
    return by_leaf.get(close[0], close[0]) if close else None


def field_problem(error: Mapping[str, Any]) -> str:
    """One of pydantic's error records as a sentence."""
    location, algorithm = _without_kind(tuple(error["loc"]))
    path = _dotted(location)
    kind = str(error["type"])
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "unexpected_keyword_argument":
        return unknown_field(path, algorithm=algorithm)
    if kind == "union_tag_invalid":
        return f"{path}.kind must be one of {error['ctx']['expected_tags']}, got {_shown(error['ctx']['tag'])}"
    if kind == "dataclass_type":
        return _section_problem(path, error["input"])
    if kind == "json_invalid":
        return "a text holds half a character (a single \\ud800 to \\udfff): take it out"
    wanted = f"one of {error['ctx']['expected']}" if kind == "literal_error" else _WANTED.get(kind.partition("_")[0])
    hint = ", with its unit: 3GiB" if path == "memory.budget" else ""
    return f"{path or 'the file'} must be {wanted or error['msg']}{hint}, got {_shown(error['input'])}"


def _without_kind(location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], str]:
    """Where it is, and the kind of algorithm, which pydantic puts behind the section's name."""
    if len(location) > 1 and location[0] == "algorithm" and location[1] in ALGORITHMS:
        return (location[0], *location[2:]), str(location[1])
    return location, "grpo"


def _section_problem(path: str, value: object) -> str:
    first = next((known for known in _field_paths() if known.startswith(f"{path}.")), None)
    if first is None:
        return f"the file must hold `name: value` lines, got {_shown(value)}"
    if value is None:
        return f"{path} is empty: put fields below it, such as {first}, or take it out"
    return f"{path} is a section, not a value: did you mean {first}: {_shown(value)}?"


def _field_paths() -> list[str]:
    """Every field's dotted path, sections included, in the order of the tree."""

    def walk(tree: Mapping[str, Any], prefix: str) -> list[str]:
        paths: list[str] = []
        for name, value in tree.items():
            if isinstance(value, dict):
                paths += walk(cast("dict[str, Any]", value), f"{prefix}{name}.")
            else:
                paths.append(prefix + name)
        return paths

    of_algorithms = [f"algorithm.{name}" for options in ALGORITHMS.values() for name in _names_of(options)]
    return list(dict.fromkeys([*walk(dataclasses.asdict(RunConfig()), ""), *of_algorithms]))


def _names_of(options: type[Any]) -> list[str]:
    return [option.name for option in dataclasses.fields(options)]


def _dotted(location: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _shown(value: object) -> str:
    """The value, cut to a length that fits in a sentence."""
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlevel = 60, 60, 2
    words = {None: "nothing", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else short.repr(value)
