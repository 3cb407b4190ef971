"""How the rows of a task are rewarded and judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from row_examples import CHAT, a_file, lines, rows

from groat.config.tree import TaskConfig
from groat.tasks import build_task, task_from_rows
from groat.types import UserError


def test_rows_with_answers_are_judged_by_them():
    task = task_from_rows(rows(2))
    assert [reward.name for reward in task.rewards] == ["answer_match"]
    assert task.is_correct(task.train[0], "0 + 1 is 1")
    assert not task.is_correct(task.train[0], "2")


def test_rows_with_neither_answers_nor_functions_are_an_error():
    given = [{"prompt": "a", "id": "first", "answer": 1}, {"prompt": "b", "id": "second", "n": 1}]
    with pytest.raises(UserError, match=r"row second has no `answer`, only id, n, and there are no reward functions"):
        task_from_rows(given)


def test_own_functions_judge_by_1_or_more_of_the_first():
    def first(completions):
        return [{"good": 1.5, "nearly": 0.9}.get(text) for text in completions]

    def second(completions):
        return [5.0 for _ in completions]

    task = task_from_rows([{"prompt": "a"}], None, [first, second], [0.1, 1.0])
    assert [(reward.name, reward.weight) for reward in task.rewards] == [("first", 0.1), ("second", 1.0)]
    assert [task.is_correct(task.train[0], text) for text in ("good", "nearly", "no")] == [True, False, False]


def test_own_functions_come_from_the_config(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("async def shout(completions, answer): return [float(t.isupper()) for t in completions]")
    path = a_file(tmp_path, lines(rows(4)))
    task = build_task(TaskConfig(name=str(path), reward_funcs=(f"{file}:shout", "exact_match")), 0)
    assert [reward.name for reward in task.rewards] == ["shout", "exact_match"]
    assert task.is_correct(task.train[0], "HI")


def test_held_out_rows_need_the_columns_of_the_first_function():
    with pytest.raises(UserError, match="exact_match needs `answer`"):
        task_from_rows(rows(2), [{"prompt": "a"}], "exact_match")


def test_rows_from_python_keep_their_order_unless_a_seed_is_given():
    kept, shuffled = task_from_rows(rows(20)), task_from_rows(rows(20), seed=1)
    assert [problem.prompt for problem in kept.train] == [row["prompt"] for row in rows(20)]
    assert kept.held_out == ()
    assert kept.train != shuffled.train
    assert sorted(problem.id for problem in kept.train) == sorted(problem.id for problem in shuffled.train)


def test_a_hugging_face_dataset_is_taken_as_it_is():
    datasets = pytest.importorskip("datasets")
    given = datasets.Dataset.from_list([{"prompt": CHAT, "answer": "4"}])
    task = task_from_rows(given, given)
    assert task.train[0].prompt == tuple(CHAT)
    assert task.train[0].columns == {"answer": "4"}


def test_an_unknown_task_says_what_there_is():
    with pytest.raises(
        UserError,
        match=r"task.name is 'arithmetik': use arithmetic, large_arithmetic, countdown, reasoning_gym:DATASET, ",
    ):
        build_task(TaskConfig(name="arithmetik"), 0)


def test_tasks_are_imported_without_torch():
    import subprocess
    import sys

    code = "import sys, groat.tasks; assert not {'torch', 'numpy', 'datasets'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_of_a_file_keep_their_order_if_asked_to(tmp_path: Path):
    name = str(a_file(tmp_path, lines(rows(20))))
    kept = build_task(TaskConfig(name=name, eval_fraction=0, shuffle_dataset=False), seed=1).train
    assert [problem.prompt for problem in kept] == [row["prompt"] for row in rows(20)]
    assert build_task(TaskConfig(name=name, eval_fraction=0), seed=1).train != kept
