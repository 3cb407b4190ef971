"""REINFORCE++ (arXiv:2501.03262): PPO's clipped loss with advantages normalized over the step, without a value model.

With `baseline: none` a token's advantage is the reward less beta times the KL divergence of this token and all behind
it (equations 8 and 9). With `baseline: group`, REINFORCE++-baseline, it is the reward less the mean of its group, and
the KL divergence is a term of the loss (half the squared log-ratio, k2). Either is then normalized over all tokens of
the step (equation 10), and the loss is a mean over them.

How we differ from the paper: beta is 0 unless asked for. Where all advantages of a step are equal, they are exactly 0.
TRL has no such trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from groat.algorithms.advantages import centred
from groat.algorithms.base import Credit, Forward, Loss, Needs, clip_metrics, mean_metric
from groat.algorithms.credit import (
    is_truncated,
    length_metrics,
    reference_log_ratios,
    reward_metrics,
    same_for_all,
)
from groat.algorithms.losses import clipped_policy_losses, squared_kl_estimates
from groat.batching import Targets, Totals
from groat.config.algorithms import ReinforceAlgorithmConfig
from groat.types import Completion, Group, Sample

_SMALLEST_DIVISOR = 1e-8


class Reinforce:
    """Compare each token's return with all of the step."""

    def __init__(self, config: ReinforceAlgorithmConfig) -> None:
        self.config = config
        self.needs = Needs(reference_logprobs=config.beta > 0, old_logprobs=config.num_iterations > 1)
        self.num_iterations = config.num_iterations

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        samples = [
            Sample(prompt=group.prompt, completion=completion, advantages=self._returns(completion, value))
            for group in groups
            for completion, value in zip(group.completions, self._values(group), strict=True)
            if not (self.config.mask_truncated_completions and is_truncated(completion))
        ]
        totals = Totals(
            sequences=sum(len(group.completions) for group in groups),
            tokens=sum(sample.num_tokens for sample in samples),
        )
        trains = [sample for sample in _normalized(samples) if any(sample.advantages) or self._kl_in_loss]
        return Credit(samples=tuple(trains), totals=totals, metrics=reward_metrics(groups) | length_metrics(groups))

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        old_N = forward.logprobs_N.detach() if targets.old_logprobs_N is None else targets.old_logprobs_N
        ratio_N, low, high = (forward.logprobs_N - old_N).exp(), 1 - self.config.epsilon, self._highest
        losses_N = clipped_policy_losses(ratio_N, targets.advantages_N, low=low, high=high)
        metrics = clip_metrics(ratio_N, targets.advantages_N, low=low, high=high)
        if targets.reference_logprobs_N is not None:
            kl_N = squared_kl_estimates(forward.logprobs_N, targets.reference_logprobs_N)
            metrics["kl"] = mean_metric(kl_N)
            if self._kl_in_loss:
                losses_N = losses_N + self.config.beta * kl_N
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        return Loss(total=losses_N.sum() / totals.tokens, metrics=metrics)

    def _values(self, group: Group) -> list[float]:
        totals = [reward.total for reward in group.rewards]
        return centred(totals) if self.config.baseline == "group" else totals

    def _returns(self, completion: Completion, value: float) -> tuple[float, ...]:
        if self._kl_in_loss or self.config.beta == 0:
            return same_for_all(completion, value)
        to_the_end = reversed(list(accumulate(reversed(reference_log_ratios(completion)))))
        return tuple(value - self.config.beta * kl for kl in to_the_end)

    @property
    def _kl_in_loss(self) -> bool:
        return self.config.beta > 0 and self.config.baseline == "group"

    @property
    def _highest(self) -> float:
        return 1 + (self.config.epsilon if self.config.epsilon_high is None else self.config.epsilon_high)


def _normalized(samples: Sequence[Sample]) -> list[Sample]:
    """Over all of their tokens: mean 0, standard deviation 1."""
    if not samples:
        return []
    values_N = np.array(centred([value for sample in samples for value in sample.advantages]))
    values_N /= values_N.std() + _SMALLEST_DIVISOR
    parts = np.split(values_N, np.cumsum([sample.num_tokens for sample in samples])[:-1])
    return [replace(sample, advantages=tuple(part.tolist())) for sample, part in zip(samples, parts, strict=True)]
