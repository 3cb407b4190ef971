"""Bytes spent where they save most: which storage kind each matrix gets, given what each kind would damage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from groat.types import StorageKind

_NUM_LARGE = 2


class Choice(NamedTuple):
    """A kind that a matrix may be stored in."""

    kind: StorageKind
    num_bytes: int
    damage: float


def allocate(choices: Mapping[str, list[Choice]], num_bytes: int) -> dict[str, StorageKind] | None:
    """A kind for every matrix, with little damage in all, in at most `num_bytes`; None if even the smallest take more.

    Greedy by damage saved per byte, but that the largest matrices (embedding and head), whose steps seldom fit what
    is left, are tried in each of their kinds.
    """
    sizes = {name: max(choice.num_bytes for choice in offered) for name, offered in choices.items()}
    large = sorted(choices, key=lambda name: (-sizes[name], name))[:_NUM_LARGE]
    tried = [
        _greedy({**choices} | {name: [choice] for name, choice in zip(large, fixed, strict=True)}, num_bytes)
        for fixed in itertools.product(*(choices[name] for name in large))
    ]
    fitting = [taken for taken in tried if taken is not None]
    if not fitting:
        return None
    best = min(fitting, key=lambda taken: sum(choice.damage for choice in taken.values()))
    return {name: choice.kind for name, choice in best.items()}


def _greedy(choices: Mapping[str, list[Choice]], num_bytes: int) -> dict[str, Choice] | None:
    ladders = {name: _ladder(offered) for name, offered in choices.items()}
    taken = {name: ladder[0] for name, ladder in ladders.items()}
    left = num_bytes - sum(choice.num_bytes for choice in taken.values())
    if left < 0:
        return None
    for step in sorted(_steps(ladders), key=lambda step: (-step.saved_per_byte, step.name, step.up.num_bytes)):
        # A smaller step may still fit where a better one did not; but no matrix skips one.
        if step.down is taken[step.name] and step.up.num_bytes - step.down.num_bytes <= left:
            left -= step.up.num_bytes - step.down.num_bytes
            taken[step.name] = step.up
    return taken


def _ladder(offered: list[Choice]) -> list[Choice]:
    """From smallest to largest, those choices that no mixture of two others beats: each byte saves less than before."""
    ladder: list[Choice] = []
    for choice in sorted(offered, key=lambda choice: (choice.num_bytes, choice.damage)):
        if ladder and choice.damage >= ladder[-1].damage:
            continue
        while len(ladder) > 1 and _saved_per_byte(ladder[-1], choice) >= _saved_per_byte(ladder[-2], ladder[-1]):
            ladder.pop()
        ladder.append(choice)
    return ladder


class _Step(NamedTuple):
    name: str
    down: Choice
    up: Choice
    saved_per_byte: float


def _steps(ladders: Mapping[str, list[Choice]]) -> Iterator[_Step]:
    for name, ladder in ladders.items():
        for down, up in itertools.pairwise(ladder):
            yield _Step(name, down, up, _saved_per_byte(down, up))


def _saved_per_byte(down: Choice, up: Choice) -> float:
    return (down.damage - up.damage) / (up.num_bytes - down.num_bytes)
