"""Every algorithm through the learner: its micro-batches change nothing, and its gradient is that of its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from learner_examples import SPEC, Taken, groups_of, grpo, learner_of, one_update, random_samples
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.algorithms.base import Algorithm, Credit, Needs
from groat.algorithms.online_dpo import OnlineDPO
from groat.algorithms.reinforce import Reinforce
from groat.algorithms.rloo import RLOO
from groat.config.algorithms import OnlineDPOAlgorithmConfig, ReinforceAlgorithmConfig, RLOOAlgorithmConfig
from groat.learning.learner import Learner
from groat.memory.guard import Guard
from groat.memory.phases import LearnCost
from groat.types import Group, Reward, UserError

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "rloo": lambda: RLOO(RLOOAlgorithmConfig()),
    "reinforce++": lambda: Reinforce(ReinforceAlgorithmConfig(beta=0.1)),
    "reinforce++ without a baseline": lambda: Reinforce(ReinforceAlgorithmConfig(beta=0.1, baseline="none")),
    "dpo": lambda: OnlineDPO(OnlineDPOAlgorithmConfig()),
    "ipo": lambda: OnlineDPO(OnlineDPOAlgorithmConfig(loss_type="ipo")),
    "sapo": lambda: grpo(loss_type="sapo"),
    "luspo": lambda: grpo(loss_type="luspo", importance_sampling_level="sequence"),
    "vespo": lambda: grpo(loss_type="vespo"),
    "top entropy": lambda: grpo(top_entropy_quantile=0.5),
    "entropy term": lambda: grpo(entropy_coef=0.1),
}


def graded_groups() -> list[Group]:
    groups = groups_of(random_samples(scored=False))
    rewards = iter(torch.rand(100, generator=torch.Generator().manual_seed(3)).tolist())

    def reward() -> Reward:
        value = next(rewards)
        return Reward(total=value, parts={"f": value})

    return [group.with_rewards(tuple(reward() for _ in group.completions)) for group in groups]


def learner(**plan: object) -> Learner:
    decoder, adapter = tiny_decoder(SPEC, dtype=torch.float64), tiny_adapter(SPEC, dtype=torch.float64)
    return learner_of(decoder, adapter, **plan)  # type: ignore[arg-type]


def credit_of(algorithm: Algorithm) -> Credit:
    return algorithm.assign_credit(learner().score(graded_groups(), algorithm.needs))


def taken(algorithm: Algorithm, credit: Credit, **plan: object) -> Taken:
    return one_update(learner(**plan), credit, algorithm)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("plan", [{"microbatch_tokens": 1}, {"microbatch_tokens": 45, "head_chunk_tokens": 1}])
def test_packing_changes_neither_loss_nor_gradient(name: str, plan: dict[str, object]):
    algorithm = ALGORITHMS[name]()
    credit = credit_of(algorithm)
    whole, cut = taken(algorithm, credit), taken(algorithm, credit, **plan)
    assert whole.update.metrics["loss"] == pytest.approx(cut.update.metrics["loss"], rel=1e-6, abs=1e-8)
    assert max(gradient.abs().max() for gradient in whole.gradients.values()) > 1e-4
    for part, gradient in whole.gradients.items():
        torch.testing.assert_close(cut.gradients[part], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["rloo", "dpo", "ipo", "entropy term"])
def test_gradient_is_the_finite_difference_of_the_loss(name: str):
    """Along the gradient itself. Old log-probs are held where they were, so that the ratio is not 1 all along."""
    algorithm = ALGORITHMS[name]()
    groups = learner().score(graded_groups(), replace(algorithm.needs, old_logprobs=True))
    credit = algorithm.assign_credit(groups)
    gradients = taken(algorithm, credit).gradients
    norm = sum(float(gradient.square().sum()) for gradient in gradients.values())

    def loss_at(distance: float) -> float:
        moved = learner()
        for part, tensor in moved.adapter.named_tensors().items():
            tensor.data.add_(gradients[part], alpha=distance)
        return moved.update(credit, algorithm).metrics["loss"]

    step = 1e-5 / norm**0.5
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(norm, rel=1e-3)


def test_entropies_are_scored_with_the_logprobs_of_the_same_policy():
    scored = learner().score(graded_groups(), Needs(entropies=True, old_logprobs=True))
    alone = learner(microbatch_tokens=1).score(graded_groups(), Needs(entropies=True))
    for group, other in zip(scored, alone, strict=True):
        for completion, same in zip(group.completions, other.completions, strict=True):
            assert completion.old_logprobs is not None
            assert same.old_logprobs is None
            assert completion.entropies == pytest.approx(same.entropies, abs=1e-9)


def test_a_pair_that_fits_nowhere_is_refused():
    algorithm = ALGORITHMS["dpo"]()
    credit = credit_of(algorithm)
    adapter = tiny_adapter(SPEC)
    tight = learner_of(tiny_decoder(SPEC), adapter)
    tight._plan = replace(
        tight._plan, cost=LearnCost(kept_per_token=1000, prefix_per_token=0, workspace_per_token=0, head_chunk=0)
    )
    gradients = sum(tensor.nbytes for tensor in adapter.named_tensors().values())
    tight._guard = Guard(budget_bytes=gradients + 3000, resident=lambda: 0, available=lambda: float("inf"))
    with pytest.raises(UserError, match="a micro-batch of sequences with one joint loss"):
        tight.update(credit, algorithm)
