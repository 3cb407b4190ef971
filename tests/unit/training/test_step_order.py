from collections import Counter

import pytest

from groat.training.step import step_problems, step_seeds
from groat.types import Problem

TRAIN = [Problem(id=str(number), prompt="?") for number in range(10)]


def ids(step: int, num_prompts: int, seed: int = 0) -> list[str]:
    return [problem.id for problem in step_problems(TRAIN, seed, step, num_prompts)]


@pytest.mark.parametrize("num_prompts", [1, 3, 4, 10, 25])
def test_every_epoch_holds_every_problem_once(num_prompts: int) -> None:
    drawn = [one for step in range(1, 101) for one in ids(step, num_prompts)]
    epochs = [drawn[start : start + 10] for start in range(0, len(drawn) - 9, 10)]
    assert all(Counter(epoch) == Counter(problem.id for problem in TRAIN) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_the_first_epoch_keeps_the_tasks_order_and_later_ones_depend_on_the_seed() -> None:
    assert ids(1, 10, seed=1) == ids(1, 10, seed=2) == [str(number) for number in range(10)]
    assert ids(2, 10, seed=1) != ids(2, 10, seed=2)


def test_a_step_is_the_same_whatever_came_before_it() -> None:
    assert ids(7, 4) == ids(7, 4)


def test_no_two_prompts_of_a_run_share_a_seed() -> None:
    seeds = [seed for step in range(1, 501) for seed in step_seeds(3, step, 16)]
    assert len(set(seeds)) == len(seeds)
    assert step_seeds(3, 1, 16) != step_seeds(4, 1, 16)
    assert step_seeds(3, 1, 4) == step_seeds(3, 1, 16)[:4]
