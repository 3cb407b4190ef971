"""Small steps for the tests of algorithms. A completion's token ids are its row in the step, so it is found again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from groat.algorithms.base import Algorithm, Forward
from groat.algorithms.grpo import GRPO
from groat.algorithms.online_dpo import OnlineDPO
from groat.algorithms.ppo import PPO
from groat.algorithms.reinforce import Reinforce
from groat.algorithms.rloo import RLOO
from groat.batching import Targets
from groat.config.algorithms import (
    GRPOAlgorithmConfig,
    OnlineDPOAlgorithmConfig,
    PPOAlgorithmConfig,
    ReinforceAlgorithmConfig,
    RLOOAlgorithmConfig,
)
from groat.types import Completion, FinishReason, Group, Problem, Prompt, Reward, Sample


def a_prompt(name: str = "p") -> Prompt:
    return Prompt(problem=Problem(id=name, prompt="?"), token_ids=(7, 8))


def a_completion(length: int = 2, *, row: int = 0, truncated: bool = False) -> Completion:
    return Completion(
        token_ids=(row,) * length,
        sampler_logprobs=(-1.0,) * length,
        policy_logprobs=(-1.0,) * length,
        text="",
        finish_reason=FinishReason.LENGTH if truncated else FinishReason.STOP,
        policy_version=0,
    )


def a_group(rewards: Sequence[float], completions: Sequence[Completion] | None = None) -> Group:
    return Group(
        prompt=a_prompt(),
        completions=tuple(completions or [a_completion(row=row) for row in range(len(rewards))]),
        rewards=tuple(Reward(total=reward, parts={"f": reward}) for reward in rewards),
    )


def grpo(max_completion_length: int = 10, **config: object) -> GRPO:
    return GRPO(GRPOAlgorithmConfig(**config), max_completion_length)  # type: ignore[arg-type]


def rloo(**config: object) -> RLOO:
    return RLOO(RLOOAlgorithmConfig(**config))  # type: ignore[arg-type]


def reinforce(**config: object) -> Reinforce:
    return Reinforce(ReinforceAlgorithmConfig(**config))  # type: ignore[arg-type]


def online_dpo(**config: object) -> OnlineDPO:
    return OnlineDPO(OnlineDPOAlgorithmConfig(**config))  # type: ignore[arg-type]


def ppo(**config: object) -> PPO:
    return PPO(PPOAlgorithmConfig(**config))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The completions of one step, padded: B rows of L tokens."""

    groups: tuple[Group, ...]
    rewards_B: Tensor
    mask_BL: Tensor
    truncated_B: Tensor
    logprobs_BL: Tensor
    old_logprobs_BL: Tensor
    sampler_logprobs_BL: Tensor
    reference_logprobs_BL: Tensor
    entropies_BL: Tensor
    values_BL: Tensor
    old_values_BL: Tensor


def random_step(seed: int = 0, num_groups: int = 4, group_size: int = 3, longest: int = 6) -> Step:
    """The first group has no contrast, and about a third of the completions are truncated."""
    generator = torch.Generator().manual_seed(seed)
    rows = num_groups * group_size
    lengths_B = torch.randint(1, longest + 1, (rows,), generator=generator)
    truncated_B = torch.rand(rows, generator=generator) < 1 / 3
    rewards = torch.randint(0, 3, (num_groups, group_size), generator=generator).double() / 10
    rewards[0] = 0.1
    rewards[1:, 0] = 0.7

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(rows, longest, dtype=torch.float64, generator=generator)

    logprobs_BL = -1.5 + noise(0.5)
    old_logprobs_BL = logprobs_BL + noise(0.5)
    sampler_logprobs_BL = (old_logprobs_BL + noise(0.8)).detach()
    reference_logprobs_BL = (logprobs_BL + noise(0.5)).detach()
    entropies_BL = noise(1.0).abs()
    values_BL = noise(0.5)
    old_values_BL = (values_BL + noise(0.3)).detach()

    def completion(row: int) -> Completion:
        length = int(lengths_B[row])
        return replace(
            a_completion(length, row=row, truncated=bool(truncated_B[row])),
            old_logprobs=tuple(old_logprobs_BL[row, :length].tolist()),
            reference_logprobs=tuple(reference_logprobs_BL[row, :length].tolist()),
            entropies=tuple(entropies_BL[row, :length].tolist()),
            values=tuple(old_values_BL[row, :length].tolist()),
        )

    completions = [completion(row) for row in range(rows)]
    return Step(
        groups=tuple(
            a_group(rewards[index].tolist(), completions[index * group_size : (index + 1) * group_size])
            for index in range(num_groups)
        ),
        rewards_B=rewards.flatten(),
        mask_BL=torch.arange(longest) < lengths_B[:, None],
        truncated_B=truncated_B,
        logprobs_BL=logprobs_BL.requires_grad_(),
        old_logprobs_BL=old_logprobs_BL.detach(),
        sampler_logprobs_BL=sampler_logprobs_BL,
        reference_logprobs_BL=reference_logprobs_BL,
        entropies_BL=entropies_BL.requires_grad_(),
        values_BL=values_BL.requires_grad_(),
        old_values_BL=old_values_BL,
    )


def packed(step: Step, samples: Sequence[Sample], *, old_is_known: bool = True) -> tuple[Forward, Targets]:
    """One micro-batch of these samples, laid end to end; logprobs keep their way back to the step's."""
    row_N, column_N = places_of(samples)
    lengths = [sample.num_tokens for sample in samples]
    targets = Targets(
        token_ids_N=row_N,
        sequence_N=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(lengths)),
        advantages_N=torch.tensor([a for sample in samples for a in sample.advantages], dtype=torch.float64),
        sampler_logprobs_N=step.sampler_logprobs_BL[row_N, column_N],
        old_logprobs_N=step.old_logprobs_BL[row_N, column_N] if old_is_known else None,
        reference_logprobs_N=step.reference_logprobs_BL[row_N, column_N],
        old_values_N=step.old_values_BL[row_N, column_N],
        returns_N=torch.tensor([r for sample in samples for r in sample.returns or ()], dtype=torch.float64),
        lengths_S=torch.tensor(lengths, dtype=torch.float64),
        bundle_S=_from_0([sample.bundle for sample in samples]),
    )
    return Forward(logprobs_N=step.logprobs_BL[row_N, column_N], entropy_N=step.entropies_BL[row_N, column_N]), targets


def places_of(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Row and column in the step of every token of these samples."""
    places = [(sample.completion.token_ids[0], i) for sample in samples for i in range(sample.num_tokens)]
    row_N, column_N = (torch.tensor(part) for part in zip(*places, strict=True))
    return row_N, column_N


def _from_0(bundles: Sequence[int | None]) -> Tensor | None:
    order = list(dict.fromkeys(bundles))
    return None if None in bundles else torch.tensor([order.index(bundle) for bundle in bundles])


def step_loss(algorithm: Algorithm, step: Step, *, old_is_known: bool = True) -> Tensor:
    """The whole step as one micro-batch."""
    credit = algorithm.assign_credit(step.groups)
    return algorithm.loss(*packed(step, credit.samples, old_is_known=old_is_known), credit.totals).total


def gradient(loss: Tensor, step: Step) -> Tensor:
    return torch.autograd.grad(loss, step.logprobs_BL)[0]
