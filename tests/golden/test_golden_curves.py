"""Ten steps of every algorithm on the toy task, as they were when they were last looked at.

A change that moves a curve shows as a changed file: `python tests/golden/test_golden_curves.py` writes them anew.
Rounding differs between machines, hence the tolerance; a token that falls on the other side of a border would show as
a difference from one step on.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from groat.config.algorithms import (
    AlgorithmConfig,
    GRPOAlgorithmConfig,
    OnlineDPOAlgorithmConfig,
    PPOAlgorithmConfig,
    ReinforceAlgorithmConfig,
    RLOOAlgorithmConfig,
)
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
from groat.testing import tiny_model, toy_task
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder
from groat.tracking.store import RunStore
from groat.training.run import train

CURVES = Path(__file__).parent / "curves"
FIGURES = ("reward", "loss", "grad_norm")
OTHER_FIGURES = {"ppo": ("loss/value_avg", "value_grad_norm")}
ALGORITHMS: dict[str, AlgorithmConfig] = {
    "grpo": GRPOAlgorithmConfig(loss_type="grpo", beta=0.02, num_iterations=2),
    "dapo": GRPOAlgorithmConfig(epsilon_high=0.28, num_iterations=2),
    "dr_grpo": GRPOAlgorithmConfig(loss_type="dr_grpo", scale_rewards="none"),
    "gspo": GRPOAlgorithmConfig(loss_type="grpo", importance_sampling_level="sequence", num_iterations=2),
    "cispo": GRPOAlgorithmConfig(loss_type="cispo", num_iterations=2),
    "sapo": GRPOAlgorithmConfig(loss_type="sapo", num_iterations=2),
    "luspo": GRPOAlgorithmConfig(loss_type="luspo", importance_sampling_level="sequence", num_iterations=2),
    "vespo": GRPOAlgorithmConfig(loss_type="vespo", num_iterations=2),
    "gdpo": GRPOAlgorithmConfig(multi_objective_aggregation="normalize_then_sum"),
    "top_entropy": GRPOAlgorithmConfig(top_entropy_quantile=0.3),
    "entropy_term": GRPOAlgorithmConfig(entropy_coef=0.05),
    "off_policy_mask": GRPOAlgorithmConfig(off_policy_mask_threshold=0.01, num_iterations=3),
    "rloo": RLOOAlgorithmConfig(),
    "reinforce++": ReinforceAlgorithmConfig(beta=0.05, baseline="none"),
    "reinforce++_baseline": ReinforceAlgorithmConfig(beta=0.05),
    "online_dpo": OnlineDPOAlgorithmConfig(),
    "online_ipo": OnlineDPOAlgorithmConfig(loss_type="ipo"),
    "ppo": PPOAlgorithmConfig(num_ppo_epochs=2, num_mini_batches=2, value_lora_r=4),
}

SEEDS = {"luspo": 1}
"""With seed 0 luspo's third update hangs on the last bits: torch's kernels and groat's part there on CPUs with AVX2."""


def curve(name: str, folder: Path) -> dict[str, list[float]]:
    is_dapo = name == "dapo"
    config = RunConfig(
        seed=SEEDS.get(name, 0),
        output_dir=str(folder / "run"),
        model=ModelConfig(name=str(tiny_model(folder / "model", seed=1))),
        lora=LoraConfig(r=8, lora_alpha=16),
        task=TaskConfig(overlong_buffer=2 if is_dapo else 0),
        sampling=SamplingConfig(num_generations=4, max_completion_length=6),
        algorithm=ALGORITHMS[name],
        rollouts=RolloutsConfig(max_refills=2 if is_dapo else 0, num_kept=3 if name == "rloo" else None),
        training=TrainingConfig(
            max_steps=10, generation_batch_size=16, learning_rate=1e-2, lr_scheduler_type="constant", save_steps=100
        ),
        evaluation=EvaluationConfig(num_problems=0),
        checks=ChecksConfig(policy_canary=False),
    )
    train(config, Console(quiet=True), toy_task())
    with RunStore.read(RunFolder(folder / "run").store_path) as reader:
        return {figure: [value for _, value in reader.metrics(figure)] for figure in figures_of(name)}


def figures_of(name: str) -> tuple[str, ...]:
    return (*FIGURES, *OTHER_FIGURES.get(name, ()))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_ten_steps_are_what_they_were(name: str, tmp_path: Path) -> None:
    expected: dict[str, Any] = json.loads((CURVES / f"{name}.json").read_text())
    found = curve(name, tmp_path)
    assert expected.keys() == set(figures_of(name))
    for figure in expected:
        assert found[figure] == pytest.approx(expected[figure], rel=1e-3, abs=1e-5), figure
    assert len(found["loss"]) == 10


def test_every_curve_is_of_an_algorithm_and_no_two_are_alike() -> None:
    curves = {path.stem: path.read_text() for path in CURVES.glob("*.json")}
    assert curves.keys() == ALGORITHMS.keys()
    assert len(set(curves.values())) == len(curves)


if __name__ == "__main__":
    for name in ALGORITHMS:
        with tempfile.TemporaryDirectory() as folder:
            found = {
                figure: [float(f"{v:.7g}") for v in values] for figure, values in curve(name, Path(folder)).items()
            }
        (CURVES / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
