"""Forests of token runs: by hand, and what holds of any."""

from __future__ import annotations

import random

import pytest

from groat.trees import Forest, Node, common_length, grow

A, B, C = 101, 102, 103


def runs(forest: Forest) -> list[tuple[int, ...]]:
    return [forest.token_ids[node.start : node.end] for node in forest.nodes]


def test_two_answers_hang_from_one_prompt():
    forest = grow([(1, 2, 3, 4, A, 5), (1, 2, 3, 4, B)])
    assert forest.token_ids == (1, 2, 3, 4, A, 5, B)
    assert forest.positions == (0, 1, 2, 3, 4, 5, 4)
    assert forest.nodes == (Node(0, 4, 7, True), Node(4, 6, 6, False), Node(6, 7, 7, False))
    assert forest.ancestors == ((), (0,), (0,))
    assert forest.chains == ((0, 1), (0, 2))


def test_paths_without_a_common_beginning_are_trees_of_their_own():
    forest = grow([(5, 6), (7, 8, 9)])
    assert forest.nodes == (Node(0, 2, 2, True), Node(2, 5, 5, True))
    assert forest.positions == (0, 1, 0, 1, 2)
    assert forest.chains == ((0,), (1,))


def test_a_branch_can_branch_again():
    forest = grow([(1, 1, 1, 1, 2, 2, 2, 2, A), (1, 1, 1, 1, 2, 2, 2, 2, B), (1, 1, 1, 1, C)])
    assert runs(forest) == [(1, 1, 1, 1), (2, 2, 2, 2), (A,), (B,), (C,)]
    assert forest.ancestors == ((), (0,), (0, 1), (0, 1), (0,))
    assert forest.chains == ((0, 1, 2), (0, 1, 3), (0, 4))
    assert [node.subtree_end for node in forest.nodes] == [11, 10, 9, 10, 11]


def test_chains_come_in_the_order_of_the_paths():
    paths = [(1, 2, 3, 4, B), (9, 9), (1, 2, 3, 4, A)]
    forest = grow(paths)
    assert [tuple(forest.token_ids[row] for row in forest.rows(index)) for index in range(3)] == paths


def test_a_path_that_begins_another_ends_in_its_inner_node():
    forest = grow([(1, 2, 3, 4), (1, 2, 3, 4, A, B)])
    assert runs(forest) == [(1, 2, 3, 4), (A, B)]
    assert forest.chains == ((0,), (0, 1))


def test_a_beginning_shorter_than_min_shared_is_not_shared():
    paths = [(1, 2, 3), (1, 2, 3, A, B)]
    assert len(grow(paths).token_ids) == 3 + 5
    assert len(grow(paths, min_shared=3).token_ids) == 5


@pytest.mark.parametrize("path", [(1,), (1, 2, 3), (1, 2, 3, 4, 5, 6, 7)])
def test_equal_paths_are_stored_once_however_short(path: tuple[int, ...]):
    forest = grow([path, path, path])
    assert forest.token_ids == path
    assert forest.chains == ((0,), (0,), (0,))


def test_min_shared_counts_from_the_last_branching():
    """All three share 4 tokens. The first two share 2 more, too few for a node of their own beside the third."""
    paths = [(1, 2, 3, 4, 5, 6, A), (1, 2, 3, 4, 5, 6, B), (1, 2, 3, 4, C)]
    assert runs(grow(paths)) == [(1, 2, 3, 4), (5, 6, A), (5, 6, B), (C,)]
    assert runs(grow(paths, min_shared=2)) == [(1, 2, 3, 4), (5, 6), (A,), (B,), (C,)]
    assert runs(grow(paths[:2])) == [(1, 2, 3, 4, 5, 6), (A,), (B,)]


def test_a_long_run_is_cut_into_a_chain():
    forest = grow([(1, 2, 3, 4, 5, 6, 7)], max_run=3)
    assert runs(forest) == [(1, 2, 3), (4, 5, 6), (7,)]
    assert forest.ancestors == ((), (0,), (0, 1))
    assert forest.chains == ((0, 1, 2),)
    assert [node.is_root for node in forest.nodes] == [True, False, False]
    assert [node.subtree_end for node in forest.nodes] == [7, 7, 7]


def test_no_paths_make_an_empty_forest():
    assert grow([]) == Forest(token_ids=(), positions=(), nodes=(), ancestors=(), chains=())


def test_an_empty_path_has_no_nodes():
    assert grow([(), (1, 2)]).chains == ((), (0,))


@pytest.mark.parametrize(
    ("first", "second", "expected"), [((), (1,), 0), ((1, 2), (1, 2), 2), ((1, 2, 3), (1, 2), 2), ((3, 1), (4, 1), 0)]
)
def test_common_length(first: tuple[int, ...], second: tuple[int, ...], expected: int):
    assert common_length(first, second) == expected == common_length(second, first)


@pytest.mark.parametrize("seed", range(60))
def test_any_forest_spells_its_paths(seed: int):
    paths, forest = random_forest(seed)
    for index, path in enumerate(paths):
        rows = forest.rows(index)
        assert tuple(forest.token_ids[row] for row in rows) == path
        assert [forest.positions[row] for row in rows] == list(range(len(path)))
        assert rows == sorted(rows)


@pytest.mark.parametrize("seed", range(60))
def test_in_any_forest_a_node_is_followed_by_exactly_what_hangs_from_it(seed: int):
    _, forest = random_forest(seed)
    assert sorted(row for node in forest.nodes for row in range(node.start, node.end)) == list(
        range(len(forest.token_ids))
    )
    for index, node in enumerate(forest.nodes):
        below = [forest.nodes[i] for i, ancestors in enumerate(forest.ancestors) if index in ancestors]
        rows = [row for other in below for row in range(other.start, other.end)]
        assert node.start < node.end
        assert sorted(rows) == list(range(node.end, node.subtree_end))
        assert node.is_root == (not forest.ancestors[index])


@pytest.mark.parametrize("seed", range(60))
def test_with_min_shared_one_no_beginning_is_stored_twice(seed: int):
    paths, _ = random_forest(seed)
    beginnings = {path[:length] for path in paths for length in range(1, len(path) + 1)}
    assert len(grow(paths, min_shared=1).token_ids) == len(beginnings)


def random_forest(seed: int) -> tuple[list[tuple[int, ...]], Forest]:
    """Few different tokens, so that much is shared; some paths begin others, and some are given twice."""
    source = random.Random(seed)
    paths = [tuple(source.choices((1, 2), k=source.randint(1, 12))) for _ in range(source.randint(1, 12))]
    paths += [(*path, 1, 2) for path in source.sample(paths, len(paths) // 3)]
    paths += source.sample(paths, len(paths) // 3)
    max_run = source.choice([None, 1, 2, 5])
    return paths, grow(paths, min_shared=source.randint(1, 5), max_run=max_run)
