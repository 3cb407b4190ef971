"""YAML as groat reads and writes it: small, plain data, with every surprise refused."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

MAX_BYTES = 64 * 1024
_MAX_DEPTH = 8
_MAX_INTEGER = 2**63 - 1


def parse_yaml(text: str) -> object:
    """Dictionaries, lists, text, numbers, true/false and None; yaml.YAMLError on anything else, with its place."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """Text that `parse_yaml` reads back as the same tree; tuples come back as lists."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        # Aliases let a few lines stand for gigabytes; no recipe needs them.
        if isinstance(event, yaml.AliasEvent):
            raise _problem("aliases (*name) are not used in recipes: write the value out", event.start_mark)
        if self._depth == _MAX_DEPTH:
            raise _problem(f"more than {_MAX_DEPTH} levels: no field of a recipe lies that deep", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _problem("tags (!name) are not used in recipes: write a plain value", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key must be the name of a field", key.start_mark)
            if key.value in seen:
                raise _problem(f"{key.value!r} is given twice: keep one of them", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    pass


def _problem(text: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    try:
        value = loader.construct_yaml_int(node)
    except ValueError:  # more digits than Python converts, or none, as in 0x_
        value = None
    if value is None or abs(value) > _MAX_INTEGER:
        raise _problem("this is not a whole number of up to 64 bits", node.start_mark)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)

# YAML 1.1 reads 1e-4 as text, 2026-01-01 as a date, and gives << and = a meaning; people mean a number and texts.
# Reader and writer must agree on this, or what the writer leaves unquoted changes its type.
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
        for first, resolvers in _class.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )
