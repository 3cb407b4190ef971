"""The entropy bonus's coefficient: by hand, through runs, and where a run is resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from groat.algorithms.grpo import GRPO
from groat.config.algorithms import GRPOAlgorithmConfig, RLOOAlgorithmConfig
from groat.config.tree import (
    ChecksConfig,
    EvaluationConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from groat.memory.workload import Workload
from groat.testing import tiny_model, toy_task
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder
from groat.tracking.store import RunStore
from groat.training.entropy_control import EntropyControl, entropy_control
from groat.training.run import resume, train


def test_the_coefficient_rises_below_the_target_falls_above_it_and_is_off_while_there_is_enough() -> None:
    control = EntropyControl(0.0, target=0.5, step=0.1)
    weights: list[float] = []
    for entropy in (0.4, 0.3, 0.6, 0.4, 0.7, 0.7, 0.7, 0.7, 0.2, 0.5):
        control.learn([entropy])
        weights.append(control.weight)
    # The coefficient: 0.1, 0.2, 0.1, 0.2, 0.1, 0, 0, 0, 0.1, and at the target it stays.
    assert weights == pytest.approx([0.1, 0.2, 0, 0.2, 0, 0, 0, 0, 0.1, 0.1])


def test_what_is_no_number_moves_nothing_and_many_steps_at_once_are_each_in_turn() -> None:
    one, other = EntropyControl(0.3, 1.0, 0.1), EntropyControl(0.3, 1.0, 0.1)
    for entropy in (0.5, math.nan, 2.0, 0.5):
        one.learn([entropy])
    other.learn([0.5, 2.0, 0.5])
    assert one.weight == other.weight == pytest.approx(0.4)


def test_only_a_target_makes_the_coefficient_move() -> None:
    assert entropy_control(RunConfig()) is None
    assert entropy_control(RunConfig(algorithm=RLOOAlgorithmConfig())) is None
    control = entropy_control(RunConfig(algorithm=GRPOAlgorithmConfig(entropy_target=0.2, entropy_coef=0.7)))
    assert control is not None
    assert control.weight == 0.7


def test_the_algorithm_gets_the_weight_and_asks_for_the_gradient_only_where_it_has_one() -> None:
    control = EntropyControl(0.0, 1.0, 0.25)
    algorithm = GRPO(GRPOAlgorithmConfig(entropy_target=1.0), 8, {"f": 2.0})
    assert not control.applied(algorithm).needs.entropy_gradient
    control.learn([0.5])
    moved = control.applied(algorithm)
    assert isinstance(moved, GRPO)
    assert (moved.config.entropy_coef, moved.max_completion_length, moved.reward_weights) == (0.25, 8, {"f": 2.0})
    assert moved.needs.entropy_gradient


def test_memory_is_planned_for_the_gradient_that_may_come() -> None:
    assert Workload.of(RunConfig(algorithm=GRPOAlgorithmConfig(entropy_target=0.2))).trains_entropy
    assert not Workload.of(RunConfig()).trains_entropy


@pytest.mark.parametrize("wrong", [{"entropy_target": 0.0}, {"entropy_target": 0.2, "entropy_coef_step": 0.0}])
def test_targets_and_steps_are_above_0(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        GRPOAlgorithmConfig(**wrong)  # type: ignore[arg-type]


def test_a_target_and_a_quantile_cannot_be_had_together() -> None:
    with pytest.raises(ValueError, match="cannot be had together"):
        GRPOAlgorithmConfig(entropy_target=0.2, top_entropy_quantile=0.5)


def config(folder: Path, name: str, steps: int, **algorithm: Any) -> RunConfig:
    return RunConfig(
        output_dir=str(folder / name),
        model=ModelConfig(name=str(tiny_model(folder / "model", seed=1))),
        lora=LoraConfig(r=8, lora_alpha=16),
        sampling=SamplingConfig(num_generations=4, max_completion_length=6),
        algorithm=GRPOAlgorithmConfig(**algorithm),
        training=TrainingConfig(
            max_steps=steps, generation_batch_size=16, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=2
        ),
        evaluation=EvaluationConfig(num_problems=0),
        checks=ChecksConfig(policy_canary=False),
    )


def figures(folder: Path, name: str) -> dict[str, list[float]]:
    with RunStore.read(RunFolder(folder / name).store_path) as reader:
        return {metric: [value for _, value in reader.metrics(metric)] for metric in reader.metric_names()}


def test_a_run_records_the_weight_and_moves_it_by_the_entropy_it_recorded(tmp_path: Path) -> None:
    target = {"entropy_target": 100.0, "entropy_coef_step": 0.01}
    train(config(tmp_path, "high", 4, **target), Console(quiet=True), toy_task())
    found = figures(tmp_path, "high")
    # No policy of 259 tokens has 100 nats: it rises after every step.
    assert found["entropy_coef"] == pytest.approx([0, 0.01, 0.02, 0.03])
    assert max(found["entropy"]) < math.log(259)
    train(config(tmp_path, "low", 4, entropy_target=1e-3, entropy_coef=0.01), Console(quiet=True), toy_task())
    assert figures(tmp_path, "low")["entropy_coef"] == pytest.approx([0.01, 0, 0, 0])


def test_a_first_step_with_a_target_is_the_step_with_that_coefficient(tmp_path: Path) -> None:
    train(config(tmp_path, "moving", 1, entropy_target=0.1, entropy_coef=0.05), Console(quiet=True), toy_task())
    train(config(tmp_path, "still", 1, entropy_coef=0.05), Console(quiet=True), toy_task())
    moving, still = figures(tmp_path, "moving"), figures(tmp_path, "still")
    assert moving.pop("entropy_coef") == [0.05]
    assert moving == still


def test_a_resumed_run_goes_on_with_the_same_coefficient(tmp_path: Path) -> None:
    target = {"entropy_target": 5.1, "entropy_coef_step": 0.02}
    train(config(tmp_path, "whole", 6, **target), Console(quiet=True), toy_task())
    train(config(tmp_path, "parts", 4, **target), Console(quiet=True), toy_task())
    resume(tmp_path / "parts", Console(quiet=True), 6, toy_task())
    assert figures(tmp_path, "parts") == figures(tmp_path, "whole")
    assert len(set(figures(tmp_path, "whole")["entropy_coef"])) > 1, figures(tmp_path, "whole")["entropy"]
