"""Runs whose answers only a judge can tell apart: evaluation compares with the answers before training."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tiny_runs import groat, record_of, write_recipe

JUDGE = """
def more_letters(prompts, completions):
    counts = [[sum(map(str.isalpha, text)) for text in pair] for pair in completions]
    return [-1 if a == b else int(b > a) for a, b in counts]
"""
JUDGED: dict[str, Any] = {
    "task": {"judge": "judge.py:more_letters", "reward_funcs": []},
    "algorithm": {"kind": "online_dpo"},
    "training": {"max_steps": 12, "learning_rate": 2e-2, "lr_scheduler_type": "constant"},
    "evaluation": {"num_problems": 4, "eval_steps": 0},
}


def run(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_recipe(folder, **JUDGED)
    (folder / "judge.py").write_text(JUDGE)
    return folder


def test_rows_without_answers_are_evaluated_by_their_win_rate(tmp_path: Path) -> None:
    folder = run(tmp_path)
    ended = groat(folder, "train", "recipe.yaml")
    assert ended.exit_code == 0, ended.output
    record = record_of(folder / "run")
    figures = {(step, name): (value, problems) for step, name, value, _, _, problems in record["evaluations"]}
    assert figures.keys() == {(0, "win_rate"), (12, "win_rate")}
    assert figures[0, "win_rate"] == (0.5, 4)
    # What the answers kept in the record are worth to the judge, counted again here.
    texts = {(step, problem): text for step, problem, _, _, text, _, _ in record["answers"]}
    counts = {key: sum(map(str.isalpha, text)) for key, text in texts.items()}
    more = [
        (counts[12, problem] > counts[key]) - (counts[12, problem] < counts[key])
        for key in texts
        if key[0] == 0
        for problem in [key[1]]
    ]
    assert figures[12, "win_rate"] == (0.5 + sum(more) / 8, 4)
    assert figures[12, "win_rate"][0] > 0.5
    assert "wrong" not in ended.output
    assert "by the judge" in ended.output


def test_a_judged_run_that_was_killed_compares_with_the_same_answers(tmp_path: Path) -> None:
    whole, parts = run(tmp_path / "whole"), run(tmp_path / "parts")
    assert groat(whole, "train", "recipe.yaml").exit_code == 0
    groat(parts, "train", "recipe.yaml", signals={("learn", 7): (signal.SIGKILL,)})
    assert groat(parts, "resume", "run").exit_code == 0
    assert record_of(parts / "run") == record_of(whole / "run")
