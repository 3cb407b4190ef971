"""Fail if code in the given folders uses what turns data into code: pickle, eval, torch.load, plain jinja2, a shell.

Model files, recipes and model output come from strangers (SECURITY: read them only with parsers that cannot run them).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

FORBIDDEN = {
    "pickle": "use safetensors or JSON",
    "cloudpickle": "use safetensors or JSON",
    "dill": "use safetensors or JSON",
    "joblib": "use safetensors or JSON",
    "marshal": "use safetensors or JSON",
    "shelve": "use SQLite",
    "torch.load": "use safetensors",
    "torch.serialization.load": "use safetensors",
    "eval": "parse the text (ast.literal_eval, json)",
    "exec": "run code in the sandboxed worker",
    "compile": "run code in the sandboxed worker",
    "yaml.load": "use groat.config.load.read_yaml",
    "yaml.full_load": "use groat.config.load.read_yaml",
    "yaml.unsafe_load": "use groat.config.load.read_yaml",
    "jinja2.Environment": "use jinja2.sandbox.ImmutableSandboxedEnvironment",
    "jinja2.Template": "use jinja2.sandbox.ImmutableSandboxedEnvironment",
    "jinja2.environment": "use jinja2.sandbox.ImmutableSandboxedEnvironment",
    "os.system": "use subprocess.run with a list",
    "os.popen": "use subprocess.run with a list",
}
INSIDE_THE_SANDBOX = ("groat", "tasks", "sandbox", "inside")
"""The folder whose code runs in confined processes only. What runs programs is allowed there, and nowhere else."""
RUNS_PROGRAMS = {"exec", "compile"}
FORBIDDEN_ARGUMENTS = {("shell", True), ("allow_pickle", True), ("weights_only", False), ("trust_remote_code", True)}


def main(folders: list[str]) -> None:
    problems = [
        f"{path}:{line}: {problem}"
        for folder in folders
        for path in sorted(Path(folder).rglob("*.py"))
        for line, problem in problems_in(path.read_text(encoding="utf-8"), allowed_in(path))
    ]
    if problems:
        sys.exit("\n".join(problems))


def allowed_in(path: Path) -> set[str]:
    return RUNS_PROGRAMS if path.parent.parts[-4:] == INSIDE_THE_SANDBOX else set()


def problems_in(source: str, allowed: Collection[str] = ()) -> Iterator[tuple[int, str]]:
    """Line and complaint for each forbidden name, under whatever alias it was imported."""
    tree = ast.parse(source)
    aliases = dict(_aliases(tree))
    annotations = set(_annotation_nodes(tree))
    for node in ast.walk(tree):
        if node in annotations:
            continue
        for name in _names(node, aliases):
            found = next((known for known in FORBIDDEN if name == known or name.startswith(f"{known}.")), None)
            if found and found not in allowed:
                yield node.lineno, f"{name}: {FORBIDDEN[found]}"
        if isinstance(node, ast.keyword) and _constant(node) in FORBIDDEN_ARGUMENTS:
            yield node.value.lineno, f"{ast.unparse(node)} is not allowed"


def _annotation_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Naming a type runs nothing."""
    for node in ast.walk(tree):
        written = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for annotation in filter(None, written):
            yield from ast.walk(annotation)


def _constant(argument: ast.keyword) -> tuple[str | None, object]:
    return argument.arg, argument.value.value if isinstance(argument.value, ast.Constant) else None


def _aliases(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.asname, name.name) for name in node.names if name.asname)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((name.asname or name.name, f"{node.module}.{name.name}") for name in node.names)


def _names(node: ast.AST, aliases: dict[str, str]) -> list[str]:
    """The full dotted names that a node imports or uses."""
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [f"{node.module}.{name.name}" for name in node.names]
    if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
        first, *rest = ast.unparse(node).split(".")
        return [".".join([aliases.get(first, first), *rest])]
    return []


if __name__ == "__main__":
    main(sys.argv[1:])
