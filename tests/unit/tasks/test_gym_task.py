"""reasoning-gym: all its datasets make problems, its scorers run in a worker, and no answer is run as code."""

from __future__ import annotations

from pathlib import Path

import pytest

from groat.config.tree import TaskConfig
from groat.tasks import build_task, gym_task
from groat.tasks.gym_screen import EVALUATED_AS_ALGEBRA, EVALUATED_AS_LISTS, gym_refusal
from groat.tasks.gym_task import Gym, gym_from, gym_problems, gym_reward
from groat.tasks.isolation import Limits, Target, Worker
from groat.tasks.reward_calls import Returned
from groat.types import UserError

factory = pytest.importorskip("reasoning_gym.factory")

OPTIONS = {"composite": {"datasets": [{"name": "leg_counting", "weight": 1, "config": {}}]}}
"""Of datasets that have no default."""
WITHOUT_REFERENCE = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
"""Their reference answer is None: any solution counts."""


def test_names_and_options_are_read():
    assert gym_from("reasoning_gym:leg_counting") == Gym(dataset="leg_counting", options={})
    assert gym_from("reasoning_gym:leg_counting(max_animals=5)") == Gym(
        dataset="leg_counting", options={"max_animals": 5}
    )
    for name in ("reasoning_gym:leg_counting(seed=1)", "reasoning_gym:leg_counting(5)", "reasoning_gym:5"):
        with pytest.raises(UserError, match="reasoning_gym"):
            gym_from(name)


@pytest.mark.parametrize(
    "gym", [Gym(dataset="legcounting", options={}), Gym(dataset="leg_counting", options={"legs": 1})]
)
def test_what_reasoning_gym_does_not_know_is_an_error(gym: Gym):
    with pytest.raises(UserError, match="cannot make problems of"):
        gym_problems(gym, 0, 1)


def test_a_task_trains_and_holds_out_different_problems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("groat.tasks.task.NUM_TRAIN", 60)
    monkeypatch.setattr("groat.tasks.task.NUM_HELD_OUT", 5)
    task = build_task(TaskConfig(name="reasoning_gym:leg_counting(max_animals=3)"), seed=4)
    assert (task.name, len(task.train), len(task.held_out)) == ("leg_counting", 60, 5)
    assert [turn["role"] for turn in task.train[0].prompt] == ["system", "user"]
    assert not {str(problem.prompt) for problem in task.train} & {str(problem.prompt) for problem in task.held_out}
    for problem in task.held_out[:2]:
        assert task.is_correct(problem, f"<think>5</think> <answer>{problem.columns['answer']}</answer>")
        assert task.is_correct(problem, problem.columns["answer"])
        assert not task.is_correct(problem, "<answer>1</answer>")
    task.rewards[0].function.close()


@pytest.mark.parametrize(
    ("dataset", "answer", "is_scored"),
    [
        ("spiral_matrix", "1 2 -3", True),
        ("binary_matrix", "[[0, 1], [1, 0]]", True),
        ("string_insertion", "['A', \"B\"]", True),
        ("n_queens", "_ Q _ _\n_ _ _ Q", True),
        ("n_queens", "open('x')", False),
        ("spiral_matrix", "[1].append", False),
        ("countdown", "(8 - 3) * 4 / 2.5", True),
        ("countdown", "9**9**9**9", False),
        ("puzzle24", "open('x')", False),
        ("simple_integration", "3*x**2/2 + sin(x)*exp(x) + C", True),
        ("simple_integration", "x.diff", False),
        ("simple_integration", "x._print", False),
        ("polynomial_multiplication", "lambda: x", False),
        ("polynomial_multiplication", "exit()", False),
        ("polynomial_multiplication", "12*x**3*y - 4*z", True),
        ("leg_counting", "__import__('os')", True),
        ("leg_counting", "x" * 20_001, False),
    ],
)
def test_scorers_that_evaluate_see_lists_and_algebra_only(dataset: str, answer: str, is_scored: bool):
    assert (gym_refusal(dataset, answer) is None) == is_scored


def test_problems_are_the_same_in_every_process():
    """Unless strings hash alike everywhere, this dataset makes other polynomials in each process."""
    gym = Gym(dataset="polynomial_multiplication", options={})
    assert gym_problems(gym, 0, 3) == gym_problems(gym, 0, 3)


@pytest.mark.slow
def test_hostile_answers_run_nothing(tmp_path: Path):
    mark = tmp_path / "groat-was-here"
    answers = [
        f"__import__('os').system('touch {mark}')",
        f"open('{mark}', 'w')",
        f"[open('{mark}', 'w')]",
        f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', '{mark}'])",
        f"Symbol('x').__class__.__init__.__globals__['__builtins__']['open']('{mark}', 'w')",
        f"exec(\"open('{mark}', 'w')\")",
        "9**9**9**9**9",
        "(" * 5000,
        "factorial(10**9)",
    ]
    assert len(EVALUATED_AS_LISTS | EVALUATED_AS_ALGEBRA) == 9
    for dataset in sorted(EVALUATED_AS_LISTS | EVALUATED_AS_ALGEBRA):
        reward = gym_reward(Gym(dataset=dataset, options={}), timeout_seconds=2.0)
        texts = [f"<answer>{answer}</answer>" for answer in answers]
        values = reward(texts, gym_place=[[0, 0]] * len(texts))
        reward.close()
        assert values == [0.0] * len(answers)
        assert all(value.why.startswith("not scored: ") for value in values)
    assert not mark.exists()


@pytest.mark.slow
def test_all_datasets_load_and_score_their_own_answers_1():
    names = sorted(factory.DATASETS)
    maker = Worker(Target(name="groat.tasks.gym_checker:items"), Limits(seconds=300))
    judge = Worker(Target(name="groat.tasks.gym_checker:judge"), Limits(seconds=300, memory_bytes=2**31))
    right: set[str] = set()
    without: set[str] = set()
    for name in names:
        given = {"dataset": name, "options": OPTIONS.get(name, {}), "seed": 0}
        made = maker.call({**given, "first": 0, "last": 2})
        assert isinstance(made, Returned), (name, made)
        answers = [answer for _, answer in made.value]
        if None in answers:
            without.add(name)
            continue
        scores = [judge.call({**given, "place": place, "answer": answer}) for place, answer in enumerate(answers)]
        refused = [gym_refusal(name, answer) for answer in answers]
        if refused == [None, None] and all(isinstance(score, Returned) and score.value[0] >= 1 for score in scores):
            right.add(name)
    maker.close()
    judge.close()
    assert without == WITHOUT_REFERENCE
    assert set(names) - without - right == set()
    assert len(right) >= 0.95 * len(names)


def test_the_number_of_problems_is_what_the_docs_say():
    assert (gym_task.NUM_TRAIN, gym_task.NUM_HELD_OUT) == (1000, 200)
