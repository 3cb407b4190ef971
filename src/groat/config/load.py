"""A RunConfig from a YAML file or the command line, and back to YAML."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from groat.config.algorithms import ALGORITHMS
from groat.config.problems import field_problem, unknown_field
from groat.config.strict_yaml import MAX_BYTES, dump_yaml, parse_yaml
from groat.config.tree import RunConfig
from groat.types import UserError


def read_yaml(path: Path) -> RunConfig:
    """The recipe in a file; fields it does not name keep their defaults. UserError lists everything that is wrong."""
    tree = _parsed(path)
    try:
        # Strict mode takes lists for tuples and objects for dataclasses only from JSON.
        return TypeAdapter(RunConfig).validate_json(json.dumps({} if tree is None else tree), strict=True)
    except ValidationError as error:
        raise UserError(_report(path, [field_problem(record) for record in error.errors()])) from None


def to_yaml(config: RunConfig) -> str:
    """Text from which `read_yaml` makes an equal config."""
    return dump_yaml(dataclasses.asdict(config))


def from_command_line(
    args: list[str], base: RunConfig, prog: str = "groat train", description: str | None = None
) -> RunConfig:
    """`base` with the flags in `args` put over it. What tyro refuses, it prints itself, and exits with 2."""
    base = _with_algorithm(args, base)
    config, unknown = tyro.cli(
        RunConfig,
        args=[_bool_flag(arg) for arg in args],
        default=base,
        prog=prog,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
        return_unknown_args=True,
    )
    if unknown:
        raise UserError(f"{_unknown_arguments(unknown, base.algorithm.kind)} (all flags: {prog} --help)")
    return config


def _parsed(path: Path) -> object:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES // 1024} KiB: a recipe is a short list of fields")
        return parse_yaml(raw.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_place(error)}: {_yaml_problem(error)}") from None


def _report(path: Path, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{path}: {problems[0]}"
    return f"{path} has {len(problems)} problems:\n" + "\n".join(f"- {problem}" for problem in problems)


def _place(error: yaml.YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _yaml_problem(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).splitlines()[0]
    if error.context is None:
        return str(error.problem)
    return f"{error.context}, {error.problem}: check the indentation and the quotes there"


def _bool_flag(arg: str) -> str:
    """`--no-checks.policy-canary` as tyro spells it: `--checks.no-policy-canary`."""
    return re.sub(r"^--no-([\w-]+)\.([\w-]+)$", r"--\1.no-\2", arg)


def _with_algorithm(args: list[str], base: RunConfig) -> RunConfig:
    """The flags there are depend on the algorithm, so it is looked for first; another one starts from its defaults."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--") else [arg])]
    kinds = [value for flag, value in itertools.pairwise(words) if flag in ("--algorithm", "--algorithm.kind")]
    if not kinds or kinds[-1] == base.algorithm.kind or kinds[-1] not in ALGORITHMS:
        return base
    return dataclasses.replace(base, algorithm=ALGORITHMS[kinds[-1]]())


def _unknown_arguments(arguments: list[str], algorithm: str) -> str:
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    if flags:
        return "; ".join(unknown_field(flag.lstrip("-").replace("-", "_"), flag, algorithm) for flag in flags)
    if arguments[0].endswith((".yaml", ".yml")):
        return f"{arguments[0]}: the recipe comes first, before the flags"
    return f"{' '.join(arguments)!r} belongs to no flag; a yes/no flag is written --flag or --no-flag"
