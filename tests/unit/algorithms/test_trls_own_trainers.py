"""The same step given to TRL's own trainers: the same loss and the same gradient.

Skipped without `pip install trl==1.16.0`. `test_grpo_against_trl.py` compares with its formulas stated again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grpo_examples import Step, gradient, grpo, online_dpo, random_step, rloo, step_loss

from groat.algorithms.base import Algorithm
from groat.algorithms.grpo import GRPO
from groat.config.algorithms import GRPOAlgorithmConfig
from groat.types import Group

pytest.importorskip("trl")

from padded_trl import trl_advantages
from trl_credit import GROUP_SIZE, early_letters, groups_and_advantages, is_long
from trl_trainers import grpo_loss, online_dpo_loss, rloo_loss

CAP = 1.2
SMALL: dict[str, Any] = {
    "per_device_train_batch_size": 12,
    "max_completion_length": 9,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "seed": 5,
}
# TRL keeps some of its constants in fp32.
TOLERANCE = 1e-7


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, step: Step) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(gradient(ours, step), gradient(theirs, step), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "dapo"},
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.5},
        {"loss_type": "grpo"},
        {"loss_type": "grpo", "importance_sampling_level": "sequence"},
        {"loss_type": "bnpo"},
        {"loss_type": "dr_grpo"},
        {"loss_type": "cispo", "epsilon_high": 1.4},
        {"loss_type": "sapo"},
        {"loss_type": "sapo", "sapo_temperature_pos": 0.7, "sapo_temperature_neg": 2.0},
        {"loss_type": "luspo", "importance_sampling_level": "sequence"},
        {"loss_type": "vespo"},
        {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_pos": 1.5, "vespo_k_neg": 2.0, "vespo_lambda_neg": 1},
        {"loss_type": "dapo", "top_entropy_quantile": 0.4},
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.1},
        {"loss_type": "sapo", "off_policy_mask_threshold": 0.1, "top_entropy_quantile": 0.4},
    ],
)
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
def test_grpos_losses(options: dict[str, Any], beta: float, masked: bool) -> None:
    step = random_step()
    algorithm = grpo(
        max_completion_length=9, beta=beta, importance_sampling_cap=CAP, mask_truncated_completions=masked, **options
    )
    mask_BL = step.mask_BL & ~step.truncated_B[:, None] if masked else step.mask_BL
    advantages_B = trl_advantages(step.rewards_B, 3, "group")
    # A group of three equal rewards has advantages of 1e-17 in TRL.
    advantages_B[:3] = 0
    theirs = grpo_loss({"beta": beta, "max_completion_length": 9} | options, step, advantages_B, mask_BL, CAP)
    assert_same(step_loss(algorithm, step), theirs, step)


def test_the_entropy_term() -> None:
    step, options = random_step(), {"entropy_coef": 0.3, "loss_type": "grpo"}
    ours = step_loss(grpo(importance_sampling_cap=CAP, **options), step)
    advantages_B = trl_advantages(step.rewards_B, 3, "group")
    theirs = grpo_loss(options, step, advantages_B, step.mask_BL, CAP)
    assert_same(ours, theirs, step)
    (slope_BL,) = torch.autograd.grad(step_loss(grpo(importance_sampling_cap=CAP, **options), step), step.entropies_BL)
    (trls_BL,) = torch.autograd.grad(grpo_loss(options, step, advantages_B, step.mask_BL, CAP), step.entropies_BL)
    torch.testing.assert_close(slope_BL, trls_BL, rtol=0, atol=TOLERANCE)
    assert slope_BL[step.mask_BL].unique().tolist() == pytest.approx([-0.3 / int(step.mask_BL.sum())])


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.05, "epsilon_high": 0.4}, {"epsilon": 0.9, "epsilon_high": 9.0}])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_rloos_loss(options: dict[str, Any], beta: float) -> None:
    step = random_step()
    algorithm = rloo(beta=beta, **options)
    kl_B = ((step.old_logprobs_BL - step.reference_logprobs_BL) * step.mask_BL).sum(1).detach()
    returns_PG = (step.rewards_B - beta * kl_B).view(-1, 3)
    others_PG = (returns_PG.sum(1, keepdim=True) - returns_PG) / 2
    theirs = rloo_loss({"beta": beta} | options, step, (returns_PG - others_PG).flatten(), step.mask_BL)
    ours = step_loss(algorithm, step)
    if beta == 0:
        # What has no advantage is left out here, and is a constant of 0 there.
        assert len(algorithm.assign_credit(step.groups).samples) < len(step.rewards_B)
    assert_same(ours, theirs, step)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
@pytest.mark.parametrize("penalty", [None, 0.35])
def test_online_dpos_loss(loss_type: str, penalty: float | None) -> None:
    step = random_step(num_groups=6, group_size=2)
    # TRL makes a pair of two equal answers too; here there are none.
    step = with_rewards(step, [0.1, 0.7, 0.5, 0.2, 0.0, 0.3, 0.9, 0.6, 0.4, 0.5, 0.8, 0.1])
    options = {"loss_type": loss_type, "beta": 0.3}
    ours = step_loss(online_dpo(missing_eos_penalty=penalty, **options), step)
    theirs = online_dpo_loss(options | {"beta": [0.3], "missing_eos_penalty": penalty}, step)
    assert_same(ours, theirs, step)


def with_rewards(step: Step, rewards: list[float]) -> Step:
    places = iter(rewards)
    groups = [
        replace(group, rewards=tuple(replace(reward, total=next(places)) for reward in group.rewards))
        for group in step.groups
    ]
    return replace(step, groups=tuple(groups), rewards_B=torch.tensor(rewards, dtype=torch.float64))


def advantages_of(algorithm: Algorithm, groups: list[Group]) -> list[float]:
    found = {sample.completion.token_ids[0]: sample.advantages[0] for sample in algorithm.assign_credit(groups).samples}
    return [found.get(row, 0.0) for row in range(sum(len(group.completions) for group in groups))]


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"beta": 0.3}, {"beta": 0.3, "normalize_advantages": True}])
@pytest.mark.parametrize("clip", [None, (0.04, 0.06)])
def test_rloos_advantages(tmp_path: Path, options: dict[str, Any], clip: tuple[float, float] | None) -> None:
    from trl import RLOOConfig, RLOOTrainer

    options = options | {"reward_clip_range": clip}
    args = RLOOConfig(output_dir=str(tmp_path), num_generations=GROUP_SIZE, **SMALL, **options)
    groups, theirs = groups_and_advantages(RLOOTrainer, args, tmp_path, [early_letters], [1.0])
    ours = advantages_of(rloo(**options), groups)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert max(theirs) > 0.001


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_grpos_advantages(tmp_path: Path, scale: str, aggregation: str) -> None:
    from trl import GRPOConfig, GRPOTrainer

    options = {"scale_rewards": scale, "multi_objective_aggregation": aggregation}
    args = GRPOConfig(
        output_dir=str(tmp_path), num_generations=GROUP_SIZE, reward_weights=[1.0, 0.5], **SMALL, **options
    )
    functions = [early_letters, is_long]
    groups, theirs = groups_and_advantages(GRPOTrainer, args, tmp_path, functions, [1.0, 0.5])
    weights = {"early_letters": 1.0, "is_long": 0.5}
    ours = advantages_of(GRPO(GRPOAlgorithmConfig(**options), 9, weights), groups)  # type: ignore[arg-type]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert any(part is None for group in groups for reward in group.rewards for part in reward.parts.values())
    assert max(theirs) > 0.1
