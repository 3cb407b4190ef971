"""Group Relative Policy Optimization (arXiv:2402.03300) and its relatives.

Relatives: Dr. GRPO (arXiv:2503.20783), the token-level loss of DAPO (arXiv:2503.14476), CISPO (arXiv:2506.13585), GSPO
(arXiv:2507.18071, `importance_sampling_level: sequence`) and two-sided clipping (arXiv:2505.07291).

How we differ from the paper: beta is 0 unless asked for; all tokens of a step weigh the same unless loss_type is grpo;
the standard deviation is over n - 1, plus 1e-4, as in TRL.

How we differ from TRL 1.16:
- Every denominator is counted over the whole step, so that micro-batches change nothing. This makes bnpo, in TRL a mean
  over the tokens of one micro-batch, the same as dapo.
- cispo caps the ratio at the paper's 5 unless told otherwise. TRL's default, epsilon, makes it REINFORCE at a fifth of
  the scale.
- The correction between sampler and learner truncates each token's weight (TRL's token_truncate). TRL's default leaves
  out the completions whose product of weights is above the cap.
- The KL term is the paper's. TRL multiplies it by the ratio unless use_bias_correction_kl is off.
- Completions that cannot move the policy are not computed; loss and gradient stay what they would have been. Metrics of
  the loss are means over the tokens that are computed, at sequence level too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from groat.algorithms.base import Credit, Forward, Loss, Metric, Needs, max_metric, mean_metric, min_metric
from groat.algorithms.credit import (
    has_contrast,
    is_truncated,
    length_metrics,
    reward_metrics,
    same_for_all,
    standard_deviation,
)
from groat.algorithms.losses import (
    clipped_policy_losses,
    kl_estimates,
    sequence_means,
    truncated_weights,
    weighted_policy_losses,
)
from groat.batching import Targets, Totals
from groat.config.tree import GRPOAlgorithmConfig
from groat.types import Completion, Group, Sample

CISPO_CAP = 5.0
SMALLEST_DIVISOR = 1e-4


class GRPO:
    """Compare each answer with the others to the same question."""

    def __init__(self, config: GRPOAlgorithmConfig, max_completion_length: int) -> None:
        self.config = config
        self.max_completion_length = max_completion_length
        self.needs = Needs(reference_logprobs=config.beta > 0, old_logprobs=config.num_iterations > 1)
        self.num_iterations = config.num_iterations

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        step_std = standard_deviation([reward.total for group in groups for reward in group.rewards])
        samples_by_group = [self._samples(group, step_std) for group in groups]
        metrics = reward_metrics(groups) | length_metrics(groups)
        return Credit(
            samples=tuple(sample for samples in samples_by_group for sample in samples),
            totals=self._totals(groups),
            metrics=metrics | {"skipped_groups": float(sum(not samples for samples in samples_by_group))},
        )

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        old_N = forward.logprobs_N.detach() if targets.old_logprobs_N is None else targets.old_logprobs_N
        ratio_N = self._ratios(forward.logprobs_N - old_N, targets)
        losses_N = self._policy_losses(ratio_N, targets.advantages_N, forward.logprobs_N)
        metrics = self._clip_metrics(ratio_N, targets.advantages_N)
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        if self.config.importance_sampling_correction:
            weights_N = truncated_weights(old_N, targets.sampler_logprobs_N, cap=self.config.importance_sampling_cap)
            losses_N = losses_N * weights_N
            metrics |= _weight_metrics(weights_N)
        if self.config.beta > 0:
            assert targets.reference_logprobs_N is not None
            kl_N = kl_estimates(forward.logprobs_N, targets.reference_logprobs_N)
            losses_N = losses_N + self.config.beta * kl_N
            metrics["kl"] = mean_metric(kl_N)
        return Loss(total=self._added_up(losses_N, targets, totals), metrics=metrics)

    def _samples(self, group: Group, step_std: float) -> list[Sample]:
        """The completions that can move the policy: by their advantage, or by the KL term."""
        return [
            Sample(prompt=group.prompt, completion=completion, advantages=same_for_all(completion, advantage))
            for completion, advantage in zip(group.completions, self._advantages(group, step_std), strict=True)
            if self._counts(completion) and (advantage != 0 or self.config.beta > 0)
        ]

    def _advantages(self, group: Group, step_std: float) -> list[float]:
        if not has_contrast(group):
            return [0.0] * len(group.rewards)
        rewards_G = np.array([reward.total for reward in group.rewards])
        centred_G = rewards_G - rewards_G.mean()
        match self.config.scale_rewards:
            case "group":
                centred_G /= rewards_G.std(ddof=1) + SMALLEST_DIVISOR
            case "batch":
                centred_G /= step_std + SMALLEST_DIVISOR
            case "none":
                pass
        return centred_G.tolist()

    def _counts(self, completion: Completion) -> bool:
        return not (self.config.mask_truncated_completions and is_truncated(completion))

    def _totals(self, groups: Sequence[Group]) -> Totals:
        """As in TRL, a truncated completion that is left out still counts as a sequence, but its tokens do not."""
        completions = [completion for group in groups for completion in group.completions]
        return Totals(
            sequences=len(completions),
            tokens=sum(len(completion.token_ids) for completion in completions if self._counts(completion)),
        )

    def _ratios(self, log_ratio_N: Tensor, targets: Targets) -> Tensor:
        if self.config.importance_sampling_level == "sequence":
            log_ratio_N = sequence_means(log_ratio_N, targets.sequence_N, targets.lengths_S)
        return log_ratio_N.exp()

    def _policy_losses(self, ratio_N: Tensor, advantages_N: Tensor, logprobs_N: Tensor) -> Tensor:
        if self.config.loss_type == "cispo":
            return weighted_policy_losses(ratio_N, advantages_N, logprobs_N, cap=self._highest)
        return clipped_policy_losses(
            ratio_N, advantages_N, low=self._lowest, high=self._highest, bound=self.config.delta
        )

    def _added_up(self, losses_N: Tensor, targets: Targets, totals: Totals) -> Tensor:
        match self.config.loss_type:
            case "grpo":
                return (losses_N / targets.lengths_S[targets.sequence_N]).sum() / totals.sequences
            case "dr_grpo":
                return losses_N.sum() / (totals.sequences * self.max_completion_length)
            case "dapo" | "bnpo" | "cispo":
                return losses_N.sum() / totals.tokens

    @property
    def _lowest(self) -> float:
        return 1 - self.config.epsilon

    @property
    def _highest(self) -> float:
        epsilon_high = self.config.epsilon_high
        if self.config.loss_type == "cispo":
            return CISPO_CAP if epsilon_high is None else epsilon_high
        return 1 + (self.config.epsilon if epsilon_high is None else epsilon_high)

    def _clip_metrics(self, ratio_N: Tensor, advantages_N: Tensor) -> dict[str, Metric]:
        """The share of tokens whose ratio is past the border that their advantage pushes them over."""
        high_N = ((ratio_N > self._highest) & (advantages_N > 0)).to(ratio_N.dtype)
        if self.config.loss_type == "cispo":
            return {"cispo_clip_ratio": mean_metric(high_N)}
        low_N = ((ratio_N < self._lowest) & (advantages_N < 0)).to(ratio_N.dtype)
        return {
            "clip_ratio/low_mean": mean_metric(low_N),
            "clip_ratio/high_mean": mean_metric(high_N),
            "clip_ratio/region_mean": mean_metric(low_N + high_N),
        }


def _weight_metrics(weights_N: Tensor) -> dict[str, Metric]:
    return {
        "sampling/importance_sampling_ratio/mean": mean_metric(weights_N),
        "sampling/importance_sampling_ratio/min": min_metric(weights_N),
        "sampling/importance_sampling_ratio/max": max_metric(weights_N),
    }
