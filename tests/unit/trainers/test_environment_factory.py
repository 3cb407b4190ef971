"""environment_factory= of GRPOTrainer, as in TRL: an object for every completion, whose methods are tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_trainers import toy_trainer

from groat.tasks.environments import Environments, OwnEnvironmentError
from groat.tasks.task import Task
from groat.types import Problem, UserError

ROWS = [{"prompt": [{"role": "user", "content": f"Count to {number}."}], "start": number} for number in range(4)]


class Counter:
    """Counts from where the row says."""

    def __init__(self) -> None:
        self.count = -1

    def reset(self, start: int, **_: Any) -> str:
        self.count = start
        return f" It is at {start}."

    def add(self, number: int) -> int:
        """Adds to the count.

        Args:
            number: How much.
        """
        self.count += number
        return self.count

    async def look(self) -> str:
        """Says where the count is."""
        return f"at {self.count}"

    def get_reward(self) -> float:
        return float(self.count)

    @property
    def never(self) -> int:
        raise AssertionError

    def _private(self) -> None: ...


class Silent:
    def reset(self, **_: Any) -> None: ...

    def wait(self) -> str:
        """Does nothing."""
        return "waited"


class Fickle(Silent):
    made = 0

    def reset(self, **_: Any) -> str:  # type: ignore[override]
        type(self).made += 1
        return f" {self.made}"


def task_of(trainer: Any) -> Task:
    return trainer._task  # type: ignore[no-any-return]


def environments_of(trainer: Any) -> Environments:
    found = task_of(trainer).environments
    assert found is not None
    return found


def test_methods_are_tools_and_every_completion_has_an_object_of_its_own(tmp_path: Path):
    trainer = toy_trainer(tmp_path, rows=ROWS, environment_factory=Counter, reward_funcs=None)
    environments = environments_of(trainer).for_template("<tool_call>")
    problem = next(one for one in task_of(trainer).train if one.columns["start"] == 2)
    assert [schema["function"]["name"] for schema in environments.schemas] == ["add", "look"]
    add = environments.schemas[0]["function"]
    assert (add["description"], add["parameters"]) == (
        "Adds to the count.",
        {
            "type": "object",
            "properties": {"number": {"type": "integer", "description": "How much."}},
            "required": ["number"],
        },
    )
    assert environments.shown(problem)[-1]["content"] == "Count to 2. It is at 2."  # type: ignore[index]
    first, second = environments.begin(problem), environments.begin(problem)
    call = '<tool_call>{"name": "%s", "arguments": %s}</tool_call>'
    replies = [
        talk.reply(text)
        for talk, text in [
            (first, call % ("add", '{"number": 5}')),
            (first, call % ("add", '{"number": 1}')),
            (second, call % ("look", "{}")),
            (second, call % ("get_reward", "{}")),
            (second, "2"),
        ]
    ]
    assert [reply and reply.turns[0].content for reply in replies] == [  # type: ignore[union-attr]
        "7",
        "8",
        "at 2",
        "Error: there is no tool 'get_reward'; there are add, look",
        None,
    ]
    assert (first.environment.count, second.environment.count) == (8, 2)
    environments.close()


def test_the_objects_own_reward_counts_once_behind_the_others(tmp_path: Path):
    seen: list[Any] = []

    def half(environments: list[Any], **_: Any) -> list[float]:
        seen.extend(environments)
        return [environment.count / 2 for environment in environments]

    options = {"max_steps": 1, "reward_weights": [2.0]}
    trainer = toy_trainer(tmp_path, rows=ROWS, environment_factory=Counter, reward_funcs=half, **options)
    assert [(one.name, one.weight) for one in task_of(trainer).rewards] == [("half", 2.0), ("Counter", 1.0)]
    trainer.train()
    assert len({id(one) for one in seen}) == len(seen) == 32  # one for every completion
    # Nothing calls a tool here, so a count is the row's start s, and a reward 2 * s / 2 + s; 8 completions of each row.
    assert sorted(one.count for one in seen) == sorted([0, 1, 2, 3] * 8)
    logged = trainer.state.log_history[0]
    assert logged["rewards/Counter/mean"] == pytest.approx(1.5)
    assert logged["reward"] == pytest.approx(2 * 1.5)


def test_an_object_without_a_word_leaves_the_prompt_as_it_is(tmp_path: Path):
    environments = environments_of(toy_trainer(tmp_path, rows=ROWS, environment_factory=Silent))
    problem = Problem(id="p", prompt=({"role": "user", "content": "Hi."},))
    assert environments.for_template("<tool_call>").shown(problem) == problem.prompt


def test_a_reset_that_says_something_else_every_time_is_refused(tmp_path: Path):
    environments = environments_of(toy_trainer(tmp_path, rows=ROWS, environment_factory=Fickle))
    problem = Problem(id="p", prompt=({"role": "user", "content": "Hi."},))
    environments.for_template("<tool_call>").shown(problem)
    with pytest.raises(OwnEnvironmentError, match=r"reset\(\) of the environment Fickle returned two texts"):
        environments.begin(problem)


def test_reset_is_asked_once_for_every_completion_and_once_for_the_prompt(tmp_path: Path):
    asked: list[object] = []

    class Counted(Silent):
        def reset(self, **row: Any) -> None:
            asked.append(row)

    environments = environments_of(toy_trainer(tmp_path, rows=ROWS, environment_factory=Counted))
    problem = Problem(id="p", prompt=({"role": "user", "content": "Hi."},))
    environments.for_template("<tool_call>").shown(problem)
    for _ in range(3):
        environments.begin(problem)
    assert len(asked) == 1 + 3


class WithoutReset:
    def look(self) -> str:
        """Looks."""
        return ""


class OnlyReset:
    def reset(self, **_: Any) -> None: ...


class ResetTakesNothing(Silent):
    def reset(self) -> None:  # type: ignore[override]
        ...


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (WithoutReset, "WithoutReset, which has no method reset"),
        (OnlyReset, "OnlyReset has no public method besides reset"),
        ({"one": Silent}, "environment_factory is a dict with one"),
    ],
)
def test_what_makes_no_environment_is_refused(tmp_path: Path, factory: Any, words: str):
    with pytest.raises(UserError, match=words):
        toy_trainer(tmp_path, rows=ROWS, environment_factory=factory)


def test_a_reset_that_does_not_take_the_row_is_told_so(tmp_path: Path):
    environments = environments_of(toy_trainer(tmp_path, rows=ROWS, environment_factory=ResetTakesNothing))
    with pytest.raises(OwnEnvironmentError, match=r"ResetTakesNothing raised TypeError.*take what it does not need"):
        environments.begin(Problem(id="p", prompt=({"role": "user", "content": "Hi."},)))
