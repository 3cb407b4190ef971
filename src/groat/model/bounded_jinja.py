"""A jinja sandbox that also ends: steps are counted and texts measured while a template is rendered.

jinja's own sandbox keeps a template from Python's inside and from files, but not from looping for ever or filling the
memory. Here every loop, call, filter and join of texts passes through a counter. What is not counted (single
operations on texts that passed the measure) takes time and memory in proportion to _MOST_CHARACTERS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MOST_STEPS = 300_000
_STEPS_OF_A_CALL = 20
_MOST_CHARACTERS = 8 * 2**20
"""In any one text (or items in a list), and in what the template writes."""
_MOST_BUILT = 8 * _MOST_CHARACTERS
"""In all texts and lists together that one rendering builds."""
_KEPT_FILTERS = {
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "groupby", "int",
    "items", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round",
    "safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "unique", "upper", "wordcount",
}  # fmt: skip
"""Of jinja's filters those that do not make a text much longer; join, replace, tojson and indent are ours."""
_GROWING_METHODS = {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill", "translate"}


class TooMuchError(Exception):
    """The template took too many steps or built too much text."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' environment for chat templates, with bounds."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        extensions = [jinja2.ext.loopcontrols, _GenerationBlocks]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=self._checked)
        self._num_steps = 0
        self._num_built = 0
        ours: dict[str, Callable[..., Any]] = {
            "tojson": self._to_json,
            "join": self._joined,
            "replace": self._replaced,
            "indent": self._indented,
            "_counted": self._counted,
            "_checked": self._checked,
            "_built": self._built,
        }
        self.filters = {name: self.filters[name] for name in _KEPT_FILTERS} | ours
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _formatted_now}
        del self.globals["lipsum"]

    def written(self, template: jinja2.Template, **variables: Any) -> str:
        """What the template writes; a TooMuchError when it goes on for too long."""
        self._num_steps = self._num_built = 0
        pieces: list[str] = []
        num_characters = 0
        for piece in template.generate(**variables):
            num_characters += len(piece)
            if num_characters > _MOST_CHARACTERS:
                raise TooMuchError(f"writes more than {_MOST_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)

    # Where jinja hands over to us.

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        _guard(template)
        template.set_environment(self)
        return template

    def wrap_str_format(self, value: Any) -> None:
        """jinja would allow a safe str.format; it can still pad to any width, so it is one of _GROWING_METHODS."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise TooMuchError(f"uses the operator {operator} on {type(left).__name__}")
        if operator == "*" and _product_size(left, right) > _MOST_CHARACTERS:
            raise TooMuchError("repeats a text or list too often")
        return self._built(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self._count(_STEPS_OF_A_CALL)
        owner: Any = getattr(obj, "__self__", None)
        method = getattr(obj, "__name__", "") if isinstance(owner, str) else ""
        if method == "join" and len(args) == 1:
            return self._joined(args[0], owner)
        if method == "replace" and len(args) in (2, 3):
            return self._replaced(owner, *args)
        return self._built(super().call(context, obj, *args, **kwargs))

    # Counting.

    def _count(self, num_steps: int = 1) -> None:
        self._num_steps += num_steps
        if self._num_steps > _MOST_STEPS:
            raise TooMuchError(f"takes more than {_MOST_STEPS} steps")

    def _counted(self, items: Any) -> Iterator[Any]:
        for item in items:
            self._count()
            yield item

    def _checked(self, value: Any) -> Any:
        """The value itself, once it is known that it would not be too long written out."""
        num_characters = 0
        waiting = [value]
        while waiting:
            self._count()
            item = waiting.pop()
            if isinstance(item, str):
                num_characters += len(item)
            elif isinstance(item, int) and not isinstance(item, bool):
                num_characters += item.bit_length() // 3
            elif isinstance(item, list | tuple | dict):
                inner = cast("Sequence[Any] | Mapping[Any, Any]", item)
                num_characters += len(inner)
                if num_characters <= _MOST_CHARACTERS:
                    self._count(len(inner))
                    waiting += [*inner.keys(), *inner.values()] if isinstance(inner, Mapping) else inner
            if num_characters > _MOST_CHARACTERS:
                raise TooMuchError(f"builds text of more than {_MOST_CHARACTERS} characters")
        return value

    def _built(self, value: Any) -> Any:
        """The same for a new text or list, which takes memory of its own."""
        if isinstance(value, str | list | tuple | dict):
            self._num_built += len(cast("Sequence[Any]", value))
            if self._num_built > _MOST_BUILT:
                raise TooMuchError(f"builds more than {_MOST_BUILT} characters in all")
        return self._checked(value)

    # Filters and methods whose result can be much longer than what they are given.

    def _joined(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = list(self._counted(value))
        items = items if attribute is None else [self.getitem(item, attribute) for item in items]
        self._checked(items)
        if len(items) * len(str(d)) > _MOST_CHARACTERS:
            raise TooMuchError("joins too many texts")
        return self._built(str(d).join(map(str, items)))

    def _replaced(self, text: Any, old: str, new: str, count: int | None = None) -> str:
        text = str(self._checked(text))
        if text.count(old) * len(new) > _MOST_CHARACTERS:
            raise TooMuchError("replaces too much text")
        return self._built(text.replace(old, new, -1 if count is None else count))

    def _indented(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = width if isinstance(width, str) else " " * min(width, 1000)
        lines = str(self._checked(text)).splitlines()
        if len(lines) * len(margin) > _MOST_CHARACTERS:
            raise TooMuchError("indents too much text")
        shown = [margin + line if (line or blank) and (first or index) else line for index, line in enumerate(lines)]
        return self._built("\n".join(shown))

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """jinja's own tojson escapes HTML characters."""
        if indent is not None and not 0 <= indent <= 16:
            raise TooMuchError(f"indents JSON by {indent}")
        self._checked(value)
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self._built(text)


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote, for training on transcripts; we only render its body."""

    tags = {"generation"}  # noqa: RUF012  (as jinja's base class has it)

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _guard(parent: nodes.Node) -> None:
    """Pass every loop's items through `_counted`, every built value through `_built`, every filter's input too."""
    for field, value in parent.iter_fields():
        if isinstance(value, list):
            setattr(parent, field, [_guarded(item) for item in cast(list[Any], value)])
        else:
            setattr(parent, field, _guarded(value))
    if isinstance(parent, nodes.For):
        parent.iter = _filtered(parent.iter, "_counted", parent.lineno)
    if isinstance(parent, nodes.AssignBlock):
        parent.filter = _filtered(parent.filter, "_built", parent.lineno)
    if isinstance(parent, nodes.Concat):
        parent.nodes = [_filtered(part, "_checked", parent.lineno) for part in parent.nodes]


def _guarded(value: Any) -> Any:
    if not isinstance(value, nodes.Node):
        return value
    _guard(value)
    if isinstance(value, nodes.Filter):
        # In a `{% filter %}` or `{% set %}` block the innermost filter has no expression: jinja gives it the block.
        value.node = None if value.node is None else _filtered(value.node, "_checked", value.lineno)
        return value if value.node is None else _filtered(value, "_built", value.lineno)
    if isinstance(value, nodes.Getitem) and isinstance(value.arg, nodes.Slice):
        return _filtered(value, "_built", value.lineno)
    if isinstance(value, nodes.Concat | nodes.List | nodes.Dict) or _is_read(value, nodes.Tuple):
        return _filtered(value, "_built", value.lineno)
    return value


def _is_read(value: nodes.Node, kind: type[nodes.Node]) -> bool:
    """Not the left side of an assignment."""
    return isinstance(value, kind) and getattr(value, "ctx", "load") == "load"


def _filtered(expression: nodes.Node | None, name: str, line: int) -> nodes.Filter:
    assert expression is None or isinstance(expression, nodes.Expr)
    return nodes.Filter(expression, name, [], [], None, None, lineno=line)


def _product_size(left: Any, right: Any) -> int:
    """Characters or items of a product; for two numbers, digits."""
    sizes = [
        len(cast("Sequence[Any]", side)) if isinstance(side, str | list | tuple) else None for side in (left, right)
    ]
    numbers = [side for side in (left, right) if isinstance(side, int)]
    if sizes == [None, None]:
        return sum(number.bit_length() for number in numbers)
    return sum(size or 0 for size in sizes) * max((abs(number) for number in numbers), default=1)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _formatted_now(format: str) -> str:
    if len(format) > 100:
        raise TooMuchError("formats the time at great length")
    return datetime.now().strftime(format)
