"""Which answers a step learns from."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groat.config.algorithms import RLOOAlgorithmConfig
from groat.config.tree import (
    ChecksConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    RolloutsConfig,
    RunConfig,
    SamplingConfig,
    TaskConfig,
    TrainingConfig,
)
from groat.tasks.task import Task, task_from_rows
from groat.testing import tiny_model, toy_rows, vowel_share
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder
from groat.tracking.rows import RolloutRow
from groat.tracking.store import RunStore
from groat.training.rollouts import most_telling, refilled
from groat.training.run import resume, train
from groat.training.step import step_seeds, step_spares
from groat.types import Completion, FinishReason, Group, Problem, Prompt, Reward, UserError


def group_of(name: str, *rewards: float) -> Group:
    return Group(
        prompt=Prompt(problem=Problem(id=name, prompt="?"), token_ids=(1,)),
        completions=tuple(
            Completion(
                token_ids=(place,),
                sampler_logprobs=(-1.0,),
                policy_logprobs=(-1.0,),
                text="",
                finish_reason=FinishReason.STOP,
                policy_version=0,
            )
            for place in range(len(rewards))
        ),
        rewards=tuple(Reward(total=reward, parts={"f": reward}) for reward in rewards),
    )


FLAT, OTHER_FLAT = group_of("flat", 1.0, 1.0), group_of("other flat", 0.0, 0.0)
A, B, C = (group_of(name, 1.0, 0.0) for name in "abc")


def names(groups: tuple[Group, ...]) -> list[str]:
    return [group.prompt.problem.id for group in groups]


def test_groups_without_contrast_give_their_places_to_others() -> None:
    asked: list[tuple[int, int]] = []

    def draw(round_: int, count: int) -> list[Group]:
        asked.append((round_, count))
        return [OTHER_FLAT, B] if round_ == 1 else [C]

    rollouts = refilled([FLAT, A, FLAT], draw, max_rounds=5)
    assert asked == [(1, 2), (2, 1)]
    assert names(rollouts.kept) == ["b", "a", "c"]
    assert names(rollouts.drawn) == ["flat", "a", "flat", "other flat", "b", "c"]
    assert rollouts.rounds == 2


def test_after_the_last_round_what_is_flat_stays() -> None:
    rollouts = refilled([FLAT, A], lambda _, count: [OTHER_FLAT] * count, max_rounds=3)
    assert names(rollouts.kept) == ["flat", "a"]
    assert rollouts.rounds == 3
    assert len(rollouts.drawn) == 5


def test_nothing_is_drawn_anew_without_rounds_or_without_need() -> None:
    def never(round_: int, count: int) -> list[Group]:
        raise AssertionError

    assert refilled([FLAT], never, max_rounds=0).kept == (FLAT,)
    assert refilled([A, B], never, max_rounds=9).kept == (A, B)


@pytest.mark.parametrize("num_kept", [2, 3, 4, 6])
def test_the_kept_completions_have_the_largest_variance_of_all_choices(num_kept: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        rewards = generator.choice([0.0, 0.2, 1.0, 1.2], size=6).tolist()
        kept = [reward.total for reward in most_telling(group_of("p", *rewards), num_kept).rewards]
        assert len(kept) == num_kept
        assert np.var(kept) == pytest.approx(max(np.var(choice) for choice in combinations(rewards, num_kept)))


def test_kept_completions_stay_in_order_and_with_their_rewards() -> None:
    kept = most_telling(group_of("p", 0.5, 1.0, 0.4, 0.0), 2)
    assert [completion.token_ids for completion in kept.completions] == [(1,), (3,)]
    assert [reward.total for reward in kept.rewards] == [1.0, 0.0]
    assert len(most_telling(FLAT, 2).completions) == 2


def test_spares_depend_on_seed_step_and_round_alone() -> None:
    train_set = [Problem(id=str(number), prompt="?") for number in range(1000)]

    def ids(*where: int) -> list[str]:
        return [problem.id for problem in step_spares(train_set, *where, 8)[0]]

    assert ids(0, 3, 1) == ids(0, 3, 1)
    assert len({tuple(ids(*where)) for where in ((0, 3, 1), (0, 3, 2), (0, 4, 1), (1, 3, 1))}) == 4
    seeds = [seed for round_ in range(1, 20) for seed in step_spares(train_set, 0, 3, round_, 8)[1]]
    assert len({*seeds, *step_seeds(0, 3, 8)}) == len(seeds) + 8


# Through a run


def odd_ones_only(completions: list[Any], prompts: list[Any], **_: Any) -> list[float]:
    """Every second problem has the same reward for all answers."""
    shares = vowel_share(completions)
    numbers = [int(prompt[0]["content"].split("(")[1].rstrip(")")) for prompt in prompts]
    return [share if number % 2 else 0.5 for share, number in zip(shares, numbers, strict=True)]


def a_task() -> Task:
    return task_from_rows(toy_rows(12), None, odd_ones_only, name="odd")


def a_config(folder: Path, name: str = "run", steps: int = 3, **rollouts: Any) -> RunConfig:
    return RunConfig(
        output_dir=str(folder / name),
        model=ModelConfig(name=str(tiny_model(folder / "model"))),
        lora=LoraConfig(r=4),
        sampling=SamplingConfig(num_generations=6, max_completion_length=8),
        algorithm=RLOOAlgorithmConfig(),
        rollouts=RolloutsConfig(**rollouts),
        training=TrainingConfig(
            max_steps=steps, generation_batch_size=24, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=2
        ),
        evaluation=EvaluationConfig(num_problems=0),
        checks=ChecksConfig(policy_canary=False),
    )


def figures(folder: Path, name: str) -> dict[str, list[tuple[int, float]]]:
    with RunStore.read(RunFolder(folder / name).store_path) as reader:
        return {metric: list(reader.metrics(metric)) for metric in reader.metric_names()}


def rollouts_of(folder: Path, step: int) -> list[RolloutRow]:
    with RunStore.read(RunFolder(folder / "run").store_path) as reader:
        return list(reader.rollouts(step))


def test_a_run_refills_and_records_everything_it_drew(tmp_path: Path) -> None:
    train(a_config(tmp_path, max_refills=9), Console(quiet=True), a_task())
    rows, found = rollouts_of(tmp_path, 1), figures(tmp_path, "run")
    groups = {row.group_index for row in rows}
    flat = {g for g in groups if len({row.reward for row in rows if row.group_index == g}) == 1}
    assert len(groups) > 4
    assert len(groups) - len(flat) == 4
    assert found["frac_reward_zero_std"][0] == (1, len(flat) / len(groups))
    assert found["reward"][0][1] == pytest.approx(sum(row.reward for row in rows) / len(rows))
    assert found["refill_rounds"][0][1] >= 1
    assert all(row.advantage == 0 for row in rows if row.group_index in flat)


def test_a_run_learns_from_the_most_telling_completions_only(tmp_path: Path) -> None:
    train(a_config(tmp_path, num_kept=2), Console(quiet=True), a_task())
    rows = rollouts_of(tmp_path, 1)
    assert len(rows) == 24
    for group in range(4):
        of_group = [row for row in rows if row.group_index == group]
        trained = [row for row in of_group if row.advantage]
        rewards = [row.reward for row in of_group]
        if max(rewards) > min(rewards):
            assert sorted(row.reward for row in trained) == [min(rewards), max(rewards)]


def test_a_resumed_run_refills_as_one_that_never_stopped(tmp_path: Path) -> None:
    train(a_config(tmp_path, "whole", 4, max_refills=2, num_kept=4), Console(quiet=True), a_task())
    train(a_config(tmp_path, "parts", 2, max_refills=2, num_kept=4), Console(quiet=True), a_task())
    resume(tmp_path / "parts", Console(quiet=True), 4, a_task())
    assert figures(tmp_path, "parts") == figures(tmp_path, "whole")


def test_a_resumed_run_goes_on_with_the_same_curriculum(tmp_path: Path) -> None:
    train(a_config(tmp_path, "whole", 6, curriculum=True), Console(quiet=True), a_task())
    train(a_config(tmp_path, "run", 4, curriculum=True), Console(quiet=True), a_task())
    resume(tmp_path / "run", Console(quiet=True), 6, a_task())
    assert figures(tmp_path, "run") == figures(tmp_path, "whole")
    train(a_config(tmp_path, "plain", 6), Console(quiet=True), a_task())
    assert figures(tmp_path, "plain")["reward"] != figures(tmp_path, "whole")["reward"]


def test_a_curriculum_needs_problems_that_come_back(tmp_path: Path) -> None:
    config = replace(a_config(tmp_path, curriculum=True), task=TaskConfig(name="arithmetic", num_examples=0))
    with pytest.raises(UserError, match=r"rollouts.curriculum needs rows that come back, and task arithmetic never"):
        train(config, Console(quiet=True))
