"""The counts of second thoughts through a run: in its figures, and in what `groat runs show` prints of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_runs import groat, write_recipe

from groat.config.load import read_yaml
from groat.config.tree import RunConfig
from groat.tasks.answers import numeric_answer
from groat.tasks.arithmetic import held_out_arithmetic
from groat.tasks.examples import read_examples
from groat.tasks.formats import xml_format
from groat.tasks.reflection import ReflectionCounter, reflection_metrics
from groat.tasks.task import build_task

RECIPES = Path(__file__).parents[3] / "recipes"


def test_a_run_counts_its_completions_and_shows_the_counts_as_a_heuristic(tmp_path: Path) -> None:
    # The tiny model writes random bytes: single letters are what it can be counted by.
    letters = ["a", "b", "q"]
    write_recipe(tmp_path, reflection={"enabled": True, "phrases": letters}, training={"max_steps": 2})
    assert groat(tmp_path, "train", "recipe.yaml").exit_code == 0
    record = json.loads(groat(tmp_path, "runs", "show", "run", "--json", "--num", "8").output)
    texts = [rollout["text"] for rollout in record["rollouts"]]
    assert len(texts) == 8
    expected = reflection_metrics(ReflectionCounter(letters), texts)
    shown = {name: series[-1] for name, series in record["metrics"].items() if name.startswith("aha_heuristic/")}
    assert shown == {name: [2, value] for name, value in expected.items()}
    page = " ".join(groat(tmp_path, "runs", "show", "run").output.split())
    assert "Aha view a heuristic: it counts phrases" in page
    assert page.count("(heuristic)") == 2


def test_without_being_asked_nothing_is_counted_or_shown(tmp_path: Path) -> None:
    write_recipe(tmp_path, training={"max_steps": 2})
    assert groat(tmp_path, "train", "recipe.yaml").exit_code == 0
    page = groat(tmp_path, "runs", "show", "run").output
    assert "heuristic" not in page.lower()


def test_the_recipes_examples_are_right_in_the_form_that_is_rewarded_and_none_is_held_out() -> None:
    examples = read_examples(str(RECIPES / "examples" / "thinking.jsonl"))
    held_out = {problem.prompt[-1]["content"] for problem in held_out_arithmetic((1, 2, 3), ())}
    task = build_task(_recipe("cold_start").task, 0)
    assert len(examples) == 32
    for [lesson] in examples:
        assert xml_format(tags=["think", "answer"])(completions=[lesson.answer]) == [1.0]
        assert lesson.prompt[-1]["content"] not in held_out
        *_, last_step = lesson.answer.partition("</think>")[0].split("\n")
        answer = last_step.rpartition("=")[2].strip()
        assert numeric_answer(extract="tag")(completions=[lesson.answer], answer=[answer]) == [1.0]
    assert [reward.name for reward in task.rewards] == ["numeric_answer", "xml_format"]


@pytest.mark.parametrize(
    ("text", "is_right"),
    [("Answer: 5", True), ("<answer> 5 </answer>", True), ("<answer>4</answer>\nAnswer: 5", False), ("5", False)],
)
def test_arithmetic_is_judged_by_answer_tags_where_there_are_any(text: str, is_right: bool) -> None:
    task = build_task(RunConfig().task, 0)
    assert task.is_correct is not None
    problem = next(problem for problem in task.held_out if problem.columns["answer"] == "5")
    assert task.is_correct(problem, text) == is_right


def _recipe(name: str) -> RunConfig:
    return read_yaml(RECIPES / f"{name}.yaml")
