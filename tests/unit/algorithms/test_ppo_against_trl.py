"""The same rollouts given to TRL's own PPOTrainer: the same losses and the same gradients, update by update.

Skipped without `pip install trl==1.12.0`, the last version with a PPOTrainer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from grpo_examples import a_completion, a_group, ppo
from torch import Tensor

from groat.algorithms.base import Forward
from groat.algorithms.ppo import PPO
from groat.batching import Targets, Totals
from groat.types import Sample

pytest.importorskip("trl.experimental.ppo", exc_type=ImportError)

from trl_ppo import Models, Seen, updates_of_trl

TOLERANCE = 1e-6
"""TRL divides logits by the temperature and 1e-7."""
PENALTY = 0.3


def random_models(*, seed: int = 0, count: int = 12, longest: int = 6, ragged: bool = False) -> Models:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)

    logits_BLV = noise(count, longest, 5)
    values_BL = noise(count, longest, scale=0.5)
    lengths_B = torch.randint(1, longest + 1, (count,), generator=generator)
    return Models(
        tokens_BL=torch.randint(0, 5, (count, longest), generator=generator),
        lengths_B=lengths_B if ragged else torch.full((count,), longest),
        scores_B=noise(count),
        old_logits_BLV=(logits_BLV + noise(count, longest, 5, scale=0.3)),
        reference_logits_BLV=(logits_BLV + noise(count, longest, 5, scale=0.5)),
        logits_BLV=logits_BLV.requires_grad_(),
        old_values_BL=(values_BL + noise(count, longest, scale=0.3)).detach(),
        values_BL=values_BL.requires_grad_(),
    )


def logprobs_of(models: Models, logits_BLV: Tensor) -> Tensor:
    return logits_BLV.log_softmax(-1).gather(-1, models.tokens_BL[..., None]).squeeze(-1)


def samples_of(algorithm: PPO, models: Models) -> list[Sample]:
    """Every completion as we credit it; one without its end has met the length limit."""
    old_BL, reference_BL = (
        logprobs_of(models, one).tolist() for one in (models.old_logits_BLV, models.reference_logits_BLV)
    )
    groups = []
    for row, length in enumerate(models.lengths_B.tolist()):
        completion = replace(
            a_completion(length, row=row, truncated=length == models.tokens_BL.shape[1]),
            old_logprobs=tuple(old_BL[row][:length]),
            reference_logprobs=tuple(reference_BL[row][:length]),
            values=tuple(models.old_values_BL[row, :length].tolist()),
        )
        groups.append(a_group([models.scores_B[row].item()], [completion]))
    return list(algorithm.assign_credit(groups).samples)


def ours(algorithm: PPO, models: Models, rows: list[int]) -> tuple[Tensor, Tensor]:
    """The losses of an update on these completions: the policy's and the values'."""
    samples = samples_of(algorithm, models)
    places = [(row, place) for row in rows for place in range(samples[row].num_tokens)]
    at = tuple(torch.tensor(part) for part in zip(*places, strict=True))
    lengths = [samples[row].num_tokens for row in rows]

    def end_to_end(values: Any) -> Tensor:
        return torch.tensor([value for row in rows for value in values(samples[row])], dtype=torch.float64)

    targets = Targets(
        token_ids_N=models.tokens_BL[at],
        sequence_N=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)),
        advantages_N=end_to_end(lambda sample: sample.advantages),
        sampler_logprobs_N=end_to_end(lambda sample: sample.completion.sampler_logprobs),
        old_logprobs_N=end_to_end(lambda sample: sample.completion.old_logprobs),
        old_values_N=models.old_values_BL[at],
        returns_N=end_to_end(lambda sample: sample.returns),
        lengths_S=torch.tensor(lengths, dtype=torch.float64),
    )
    totals = Totals(sequences=len(rows), tokens=sum(lengths))
    policy = algorithm.loss(Forward(logprobs_N=logprobs_of(models, models.logits_BLV)[at]), targets, totals)
    return policy.total, algorithm.value_loss(models.values_BL[at], targets, totals).total


def assert_same(algorithm: PPO, models: Models, theirs: Seen) -> None:
    policy, values = ours(algorithm, models, theirs.rows)
    assert (policy + values).item() == pytest.approx(theirs.loss, abs=TOLERANCE)
    [logits_grad_BLV] = torch.autograd.grad(policy, models.logits_BLV)
    [values_grad_BL] = torch.autograd.grad(values, models.values_BL)
    torch.testing.assert_close(logits_grad_BLV, theirs.logits_grad_BLV, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(values_grad_BL, theirs.values_grad_BL, rtol=0, atol=TOLERANCE)
    assert logits_grad_BLV.abs().max() > 1e-3
    assert values_grad_BL.abs().max() > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kl_estimator": "k3", "kl_coef": 0.3},
        {"gamma": 0.9, "lam": 0.7},
        {"whiten_rewards": True, "vf_coef": 0.5},
        {"cliprange": 0.05, "cliprange_value": 0.1},
        {"cliprange": 0.9, "cliprange_value": 5.0, "lam": 0.0},
        {"missing_eos_penalty": PENALTY, "whiten_rewards": True, "kl_estimator": "k3", "gamma": 0.95},
    ],
)
@pytest.mark.parametrize("num_mini_batches", [1, 3])
def test_losses_and_gradients(options: dict[str, Any], num_mini_batches: int) -> None:
    """All completions are as long as can be: see the next test for those that are not."""
    models, options = random_models(), options | {"num_ppo_epochs": 2, "num_mini_batches": num_mini_batches}
    seen = updates_of_trl(options, models)
    assert [len(one.rows) for one in seen] == [12 // num_mini_batches] * 2 * num_mini_batches
    for one in seen:
        assert_same(ppo(**options), models, one)


@pytest.mark.parametrize("options", [{}, {"kl_estimator": "k3", "kl_coef": 0.3}, {"cliprange_value": 0.1}])
def test_shorter_completions(options: dict[str, Any]) -> None:
    """TRL rewards a state behind the end. With gamma = lam = 1 the tokens get the same credit wherever the reward is;
    the loss of the values, a mean in which such states count, is made ours by their number, their own being 0."""
    models, options = random_models(ragged=True), options | {"lam": 1.0, "num_ppo_epochs": 1, "vf_coef": 1.0}
    shorter = [(row, n) for row, n in enumerate(models.lengths_B.tolist()) if n < models.tokens_BL.shape[1]]
    for row, behind in shorter:
        for values_BL in (models.values_BL.data, models.old_values_BL):
            values_BL[row, behind] = models.scores_B[row]
    [theirs] = updates_of_trl(options, models)
    policy, values = ours(ppo(**options), models, theirs.rows)
    tokens = int(models.lengths_B.sum())
    share = tokens / (tokens + len(shorter))
    assert len(shorter) > 5
    assert (policy + share * values).item() == pytest.approx(theirs.loss, abs=TOLERANCE)
    [logits_grad_BLV] = torch.autograd.grad(policy, models.logits_BLV)
    [values_grad_BL] = torch.autograd.grad(share * values, models.values_BL)
    torch.testing.assert_close(logits_grad_BLV, theirs.logits_grad_BLV, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(values_grad_BL, theirs.values_grad_BL, rtol=0, atol=TOLERANCE)
