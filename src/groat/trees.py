"""Sequences that share beginnings, laid out as trees so that every shared run of tokens appears once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MIN_SHARED = 4
"""Tokens that make a shared beginning worth a node."""
LEAST_PREFIX = 64
"""Tokens that make a beginning which micro-batches share worth a forward and a backward of its own."""
PASS_TOKENS = 100
"""Tokens whose time one more forward and backward takes beside that of its own tokens."""


class Node(NamedTuple):
    """A run of tokens `[start, end)`; the runs below it fill `[end, subtree_end)`."""

    start: int
    end: int
    subtree_end: int
    is_root: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Trees laid flat, depth first."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    """Each token's distance from the beginning of its sequence."""
    nodes: tuple[Node, ...]
    """In the order of their starts: a parent before its children."""
    ancestors: tuple[tuple[int, ...], ...]
    """For every node, the nodes above it, root first."""
    chains: tuple[tuple[int, ...], ...]
    """For every path given, in that order, the nodes from root to leaf."""

    def rows(self, path: int) -> list[int]:
        """The flat row of each token of a path."""
        return [row for node in self.chains[path] for row in range(self.nodes[node].start, self.nodes[node].end)]


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def grow(paths: Sequence[tuple[int, ...]], min_shared: int = MIN_SHARED, max_run: int | None = None) -> Forest:
    """The forest of these paths.

    A beginning shared for fewer than `min_shared` tokens is not worth a node of its own; a run longer than
    `max_run` is cut into a chain of nodes.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    nodes: list[Node] = []
    ancestors: list[tuple[int, ...]] = []
    chains: list[tuple[int, ...]] = [()] * len(paths)

    def branch(members: list[int], depth: int, chain: tuple[int, ...]) -> None:
        first, last = min(paths[m] for m in members), max(paths[m] for m in members)
        end = common_length(first, last)
        if max_run is not None:
            end = min(end, depth + max_run)
        index, start = len(nodes), len(token_ids)
        nodes.append(Node(start, start + end - depth, 0, is_root=not chain))
        ancestors.append(chain)
        token_ids.extend(first[depth:end])
        positions.extend(range(depth, end))
        chain = (*chain, index)
        for below in _split(paths, members, end, min_shared):
            branch(below, end, chain)
        nodes[index] = nodes[index]._replace(subtree_end=len(token_ids))
        for member in members:
            if len(paths[member]) == end:
                chains[member] = chain

    for members in _split(paths, range(len(paths)), 0, min_shared):
        branch(members, 0, ())
    return Forest(
        token_ids=tuple(token_ids),
        positions=tuple(positions),
        nodes=tuple(nodes),
        ancestors=tuple(ancestors),
        chains=tuple(chains),
    )


def _split(
    paths: Sequence[tuple[int, ...]], members: Sequence[int], depth: int, min_shared: int
) -> Iterator[list[int]]:
    """The members that go on beyond `depth`, together where their next `min_shared` tokens agree."""
    together: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for member in members:
        if len(paths[member]) > depth:
            together[paths[member][depth : depth + min_shared]].append(member)
    yield from together.values()
