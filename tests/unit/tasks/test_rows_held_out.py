"""How rows are held out for evaluation."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from row_examples import a_file, lines, rows

from groat.config.tree import TaskConfig
from groat.tasks import build_task
from groat.tasks.rows import problems_from_rows, split_held_out


def test_the_given_fraction_is_held_out_whatever_the_seed(tmp_path: Path):
    path = a_file(tmp_path, lines(rows(40)))
    first, second = (build_task(TaskConfig(name=str(path), eval_fraction=0.25), seed) for seed in (0, 1))
    assert len(first.held_out) == 10
    assert first.held_out == second.held_out
    assert {problem.prompt for problem in first.train} == {problem.prompt for problem in second.train}
    assert first.train != second.train
    assert not {problem.prompt for problem in first.train} & {problem.prompt for problem in first.held_out}


def test_the_split_does_not_depend_on_the_order_of_rows():
    problems = problems_from_rows(rows(40), "rows")
    forward, backward = split_held_out(problems, 0.25), split_held_out(problems[::-1], 0.25)
    assert forward[1] == backward[1]


def test_equal_prompts_stay_on_one_side():
    problems = problems_from_rows([{"prompt": str(number % 5), "answer": number} for number in range(50)], "rows")
    train, held_out = split_held_out(problems, 0.2)
    assert len(held_out) == 10
    assert len({problem.prompt for problem in held_out}) == 1
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in held_out}


@pytest.mark.parametrize(("count", "fraction", "num_held_out"), [(10, 0.0, 0), (10, 0.1, 1), (3, 0.1, 1), (1, 0.9, 0)])
def test_small_sets_hold_out_at_least_one_row_and_train_on_at_least_one(count: int, fraction: float, num_held_out: int):
    train, held_out = split_held_out(problems_from_rows(rows(count), "rows"), fraction)
    assert (len(train), len(held_out)) == (count - num_held_out, num_held_out)


def test_a_file_of_its_own_is_held_out_and_shared_prompts_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    train = a_file(tmp_path, lines(rows(5)))
    evaluation = a_file(tmp_path, lines(rows(2)), "eval.jsonl")
    with caplog.at_level(logging.WARNING, logger="groat"):
        task = build_task(TaskConfig(name=str(train), eval_name=str(evaluation)), 0)
    assert (len(task.train), len(task.held_out)) == (5, 2)
    assert "2 of 2 prompts are also trained on" in caplog.text
