"""Problems chosen by how often they are solved."""

from __future__ import annotations

from collections import Counter

import pytest

from groat.tracking.rows import RolloutRow
from groat.training.curriculum import Curriculum
from groat.types import Problem

TRAIN = tuple(Problem(id=name, prompt="?") for name in ("never", "half", "always", "new"))


def rows(problem: str, solved: int, tried: int) -> list[RolloutRow]:
    return [
        RolloutRow(
            group_index=0,
            completion_index=index,
            problem_id=problem,
            prompt_text="",
            text="",
            finish_reason="stop",
            num_tokens=1,
            reward=0.0,
            advantage=0.0,
            policy_version=0,
            parts={"right": float(index < solved), "format": 1.0},
        )
        for index in range(tried)
    ]


def after(*steps: list[RolloutRow], train: tuple[Problem, ...] = TRAIN) -> Curriculum:
    curriculum = Curriculum(train, seed=0)
    for step in steps:
        curriculum.learn(step)
    return curriculum


def test_a_solve_rate_begins_at_a_half_and_forgets_half_of_every_earlier_visit() -> None:
    """3 of 4, then 0 of 4: (3 / 2 + 0 + 1) / (4 / 2 + 4 + 2)."""
    curriculum = after(rows("half", 3, 4), rows("half", 0, 4))
    assert curriculum.solve_rate(TRAIN[1]) == pytest.approx(2.5 / 8)
    assert curriculum.solve_rate(TRAIN[3]) == 0.5


def test_problems_come_up_as_often_as_their_rewards_vary() -> None:
    """Rates 1/102, 51/102 and 101/102 after 100 tries: the first and third have the least weight, 0.02 of 0.25."""
    curriculum = after([*rows("never", 0, 100), *rows("half", 50, 100), *rows("always", 100, 100)])
    counts = Counter(curriculum.problems(step, 1)[0].id for step in range(4000))
    total = 0.25 + 0.25 + 2 * 0.02
    for name, weight in {"half": 0.25, "new": 0.25, "never": 0.02, "always": 0.02}.items():
        assert counts[name] / 4000 == pytest.approx(weight / total, abs=0.03)


def test_a_step_has_every_problem_at_most_once_while_there_are_enough() -> None:
    curriculum = after(rows("never", 0, 100))
    for step in range(50):
        assert len({problem.id for problem in curriculum.problems(step, 4)}) == 4
    assert max(Counter(problem.id for problem in curriculum.problems(1, 8)).values()) == 2


def test_the_choice_depends_on_seed_step_and_rates_alone() -> None:
    def ids(curriculum: Curriculum) -> list[str]:
        return [problem.id for step in range(30) for problem in curriculum.problems(step, 2)]

    assert ids(after(rows("half", 1, 2))) == ids(after(rows("half", 1, 2)))
    assert ids(after()) != ids(after(rows("half", 0, 9)))
    assert ids(after()) != ids(Curriculum(TRAIN, seed=1))
