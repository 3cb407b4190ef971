"""RLOO: REINFORCE with a leave-one-out baseline (arXiv:2402.14740).

A completion is one action: it has one advantage, its return less the mean return of the others, and one ratio, that of
its whole probability. Its return is its reward less beta times its KL divergence from the reference policy, estimated
by the log-ratio of the drawn tokens, added up.

How we differ from the paper: with several iterations the ratio is clipped as in PPO. In the first one it is 1, and the
gradient is the paper's.

How we differ from TRL 1.16:
- The KL divergence is taken from the sampler's log-probs where the learner has not found its own; they agree up to
  rounding, and a forward pass is saved.
- Returns that are all equal have advantages of exactly 0, and completions with such an advantage are not computed.
- A truncated completion that is left out adds nothing to the loss, where TRL adds minus its advantage: a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groat.algorithms.advantages import SMALLEST_DIVISOR, leave_one_out
from groat.algorithms.base import Credit, Forward, Loss, Needs, clip_metrics, mean_metric
from groat.algorithms.credit import (
    is_truncated,
    length_metrics,
    reference_log_ratios,
    reward_metrics,
    same_for_all,
    standard_deviation,
)
from groat.algorithms.losses import clipped_policy_losses, sequence_sums
from groat.batching import Targets, Totals
from groat.config.algorithms import RLOOAlgorithmConfig
from groat.types import Completion, Group, Reward, Sample


class RLOO:
    """Compare each answer's return with the mean of the others'."""

    def __init__(self, config: RLOOAlgorithmConfig) -> None:
        self.config = config
        self.needs = Needs(reference_logprobs=config.beta > 0, old_logprobs=config.num_iterations > 1)
        self.num_iterations = config.num_iterations

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        advantages = [leave_one_out(self._returns(group)) for group in groups]
        divisor = self._divisor(advantages)
        samples = [
            Sample(prompt=group.prompt, completion=completion, advantages=same_for_all(completion, advantage / divisor))
            for group, of_group in zip(groups, advantages, strict=True)
            for completion, advantage in zip(group.completions, of_group, strict=True)
            if advantage != 0 and not (self.config.mask_truncated_completions and is_truncated(completion))
        ]
        completions = [completion for group in groups for completion in group.completions]
        totals = Totals(sequences=len(completions), tokens=sum(one.num_drawn for one in completions))
        metrics = reward_metrics(groups) | length_metrics(groups) | self._kl_metrics(completions)
        return Credit(samples=tuple(samples), totals=totals, metrics=metrics)

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        old_N = forward.logprobs_N.detach() if targets.old_logprobs_N is None else targets.old_logprobs_N
        log_ratio_S = sequence_sums(forward.logprobs_N - old_N, targets.sequence_N, targets.lengths_S)
        advantages_S = sequence_sums(targets.advantages_N, targets.sequence_N, targets.lengths_S) / targets.lengths_S
        ratio_S, low, high = log_ratio_S.exp(), 1 - self.config.epsilon, self._highest
        losses_S = clipped_policy_losses(ratio_S, advantages_S, low=low, high=high)
        metrics = clip_metrics(ratio_S, advantages_S, low=low, high=high)
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        return Loss(total=losses_S.sum() / totals.sequences, metrics=metrics)

    def _returns(self, group: Group) -> list[float]:
        return [self._return(*one) for one in zip(group.completions, group.rewards, strict=True)]

    def _return(self, completion: Completion, reward: Reward) -> float:
        value = reward.total
        if self.config.reward_clip_range is not None:
            low, high = self.config.reward_clip_range
            value = min(max(value, low), high)
        return value - self.config.beta * sum(reference_log_ratios(completion)) if self.config.beta > 0 else value

    def _divisor(self, advantages: Sequence[Sequence[float]]) -> float:
        """Advantages add up to 0 in every group, so that nothing has to be taken off."""
        if not self.config.normalize_advantages:
            return 1.0
        return standard_deviation([value for of_group in advantages for value in of_group]) + SMALLEST_DIVISOR

    def _kl_metrics(self, completions: Sequence[Completion]) -> dict[str, float]:
        if self.config.beta == 0:
            return {}
        return {"kl": float(np.mean([value for one in completions for value in reference_log_ratios(one)]))}

    @property
    def _highest(self) -> float:
        return 1 + (self.config.epsilon if self.config.epsilon_high is None else self.config.epsilon_high)
