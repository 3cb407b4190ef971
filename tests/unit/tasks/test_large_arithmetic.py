"""Word problems for a calculator: their numbers, the worked examples, and what calls are worth."""

from __future__ import annotations

import re

import pytest

from groat.config.tree import TaskConfig
from groat.tasks.large_arithmetic import LARGE, WORKED_EXAMPLES, called_answer, called_numbers
from groat.tasks.safe_arithmetic import evaluated
from groat.tasks.task import build_task
from groat.tasks.tools.calculator import value_of
from groat.types import UserError


def config(*tools: str, **options: object) -> TaskConfig:
    return TaskConfig(name="large_arithmetic", tools=tools, **options)  # type: ignore[arg-type]


def conversation(expression: str, result: str) -> list[dict[str, object]]:
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": expression}}}
    return [
        {"role": "assistant", "content": f"call calculator: {expression}", "tool_calls": [call]},
        {"role": "user", "content": f"result: {result}"},
        {"role": "assistant", "content": f"Answer: {result}"},
    ]


def test_the_worked_examples_are_right():
    for example in WORKED_EXAMPLES:
        assert value_of(example.expression) == example.answer
        assert example.steps.endswith(f"= {example.answer}")
        for line in example.steps.split("\n"):
            left, right = line.split(" = ")
            assert evaluated(left).value == int(right)
        assert sorted(re.findall(r"\d+", example.text)) == sorted(re.findall(r"\d+", example.expression))


def test_numbers_are_large_and_answers_right():
    task = build_task(config(), seed=3)
    for problem in [*task.train[:200], *task.held_out]:
        numbers = [int(number) for number in re.findall(r"\d+", problem.prompt[-1]["content"])]  # type: ignore[index]
        assert min(numbers) >= 11
        lines = problem.columns["solution"].split("\n")[:-1]
        assert len(lines) == problem.columns["num_steps"] == len(numbers) - 1
        for line in lines:
            left, right = line.split(" = ")
            assert evaluated(left).value == int(right) <= LARGE.largest_result
        assert problem.columns["answer"] == lines[-1].split(" = ")[1]
        assert task.is_correct(problem, f"Answer: {problem.columns['answer']}")


def test_no_problem_is_both_trained_on_and_held_out():
    task = build_task(config(), seed=0)
    held_out = {re.sub("[A-Za-z]+", "", problem.prompt[-1]["content"]) for problem in task.held_out}  # type: ignore[index]
    assert len({problem.id for problem in task.held_out}) == len(task.held_out) == 200
    assert not held_out & {re.sub("[A-Za-z]+", "", one.prompt[-1]["content"]) for one in task.train[:3000]}  # type: ignore[index]


def test_worked_examples_call_the_calculator_where_there_is_one():
    with_tool, without = build_task(config("calculator"), 0), build_task(config(), 0)
    assert with_tool.environments is not None
    shown = with_tool.environments.for_template("").shown(with_tool.train[0])
    assert shown[0]["role"] == "system"  # type: ignore[index]
    assert "call NAME: ARGUMENT" in shown[0]["content"]  # type: ignore[index]
    assert list(shown[2:5]) == [
        {"role": "assistant", "content": "call calculator: 917 - 248"},
        {"role": "user", "content": "result: 669"},
        {"role": "assistant", "content": "Answer: 669"},
    ]
    hermes = with_tool.environments.for_template("<tool_call>").shown(with_tool.train[0])
    assert [turn["role"] for turn in hermes[:4]] == ["user", "assistant", "tool", "assistant"]  # type: ignore[index]
    assert hermes[1]["content"].startswith('<tool_call>\n{"name": "calculator"')  # type: ignore[index]
    assert without.environments is None
    assert without.train[0].prompt[1]["content"] == "917 - 248 = 669\nAnswer: 669"  # type: ignore[index]
    assert [reward.name for reward in with_tool.rewards] == ["correct_answer", "called_answer", "called_numbers"]
    assert [reward.name for reward in without.rewards] == ["correct_answer"]


def test_rewards_of_calls_by_hand():
    question = [{"role": "user", "content": "Ann has 120 eggs and buys 15 more, then 15 more."}]
    completions = [
        conversation("120 + 15 + 15", "150"),
        conversation("15 + 15 + 120 + 0", "150"),  # a number that is not in the question
        conversation("120 + 15", "135"),
        [{"role": "assistant", "content": "Answer: 150"}],
    ]
    assert called_numbers([question] * 4, completions) == [1.0, 0.0, 0.0, 0.0]
    assert called_answer(completions, ["150"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_there_are_three_worked_examples():
    with pytest.raises(UserError, match="use 3 or fewer"):
        build_task(config(num_examples=4), 0)
