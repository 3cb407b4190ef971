"""Rewards for the form of a text: thinking apart from the answer, XML tags. Tags are counted, in linear time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from groat.tasks.built_rewards import BuiltReward, text_reward
from groat.tasks.explained import Explained
from groat.types import UserError

_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


def think_format(*, tag: str = "think", strict: bool = True, opened: bool = False) -> BuiltReward:
    """1 if the text thinks between `<think>` and `</think>` and then says something, else 0.

    Strict: it begins with `<think>`, each tag comes once, and neither the thinking nor what follows is empty. Soft
    (`strict=False`): a closed pair stands anywhere. `opened`: the prompt ends in `<think>` already.
    """
    _check_tags([tag])

    def rule(text: str) -> Explained:
        whole = f"<{tag}>{text}" if opened else text
        fault = _think_fault(whole, tag) if strict else _missing_pair(whole, [tag])
        return _verdict(fault)

    return text_reward("think_format", rule)


def xml_format(*, tags: Sequence[str] = ("reasoning", "answer"), strict: bool = True) -> BuiltReward:
    """1 if the text is `<reasoning>...</reasoning><answer>...</answer>` (or the given `tags`, in their order), else 0.

    Strict: nothing but blanks stands outside, and every tag comes once. Soft: closed pairs stand in this order.
    """
    wanted = _check_tags(tags)

    def rule(text: str) -> Explained:
        return _verdict(_strict_fault(text, wanted) if strict else _missing_pair(text, wanted))

    return text_reward("xml_format", rule)


def xml_share(*, tags: Sequence[str] = ("reasoning", "answer")) -> BuiltReward:
    """The share of opening and closing tags that come exactly once: a slope towards `xml_format`."""
    wanted = [mark for tag in _check_tags(tags) for mark in (f"<{tag}>", f"</{tag}>")]

    def rule(text: str) -> Explained:
        once = [mark for mark in wanted if text.count(mark) == 1]
        return Explained(len(once) / len(wanted), f"{len(once)} of {len(wanted)} tags come once")

    return text_reward("xml_share", rule)


def _think_fault(text: str, tag: str) -> str | None:
    start, end = f"<{tag}>", f"</{tag}>"
    if not text.lstrip().startswith(start):
        return f"does not begin with {start}"
    if text.count(start) != 1 or text.count(end) != 1:
        return f"has {text.count(start)} {start} and {text.count(end)} {end}"
    thinking, _, rest = text.partition(end)
    if not thinking.partition(start)[2].strip():
        return "thinks nothing"
    return None if rest.strip() else f"says nothing after {end}"


def _strict_fault(text: str, tags: Sequence[str]) -> str | None:
    rest = text.strip()
    for tag in tags:
        start, end = f"<{tag}>", f"</{tag}>"
        if text.count(start) != 1 or text.count(end) != 1:
            return f"has {text.count(start)} {start} and {text.count(end)} {end}"
        if not rest.startswith(start):
            return f"has something else where {start} should be"
        rest = rest.partition(end)[2].lstrip()
    return "goes on after the last tag" if rest else None


def _missing_pair(text: str, tags: Sequence[str]) -> str | None:
    place = 0
    for tag in tags:
        start = text.find(f"<{tag}>", place)
        end = text.find(f"</{tag}>", max(start, 0))
        if start < 0 or end < 0:
            return f"has no <{tag}>...</{tag}> where it should be"
        place = end
    return None


def _verdict(fault: str | None) -> Explained:
    return Explained(1.0, "as asked") if fault is None else Explained(0.0, fault)


def _check_tags(tags: Sequence[str]) -> list[str]:
    if not tags or isinstance(tags, str) or not all(_TAG_NAME.fullmatch(tag) for tag in tags):
        raise UserError(f'tags must be names such as ["think", "answer"], got {tags!r}')
    return list(tags)
