"""Group Relative Policy Optimization (arXiv:2402.03300) and its relatives.

Relatives: Dr. GRPO (arXiv:2503.20783), the token-level loss of DAPO (arXiv:2503.14476), CISPO (arXiv:2506.13585), GSPO
(arXiv:2507.18071, `importance_sampling_level: sequence`), LUSPO (arXiv:2602.05261), SAPO (arXiv:2511.20347), VESPO
(arXiv:2602.10693), two-sided clipping (arXiv:2505.07291), training on the tokens with the highest entropy
(arXiv:2506.01939), the off-policy mask of DeepSeek-V3.2 (arXiv:2512.02556) and GDPO (arXiv:2601.05242).

How we differ from the paper: beta is 0 unless asked for; all tokens of a step weigh the same unless loss_type is grpo;
the standard deviation is over n - 1, plus 1e-4, as in TRL.

How we differ from TRL 1.16:
- Every denominator is counted over the whole step, so that micro-batches change nothing. This makes bnpo, in TRL a mean
  over the tokens of one micro-batch, the same as dapo; the entropy term is a mean over the step too.
- cispo caps the ratio at the paper's 5 unless told otherwise. TRL's default, epsilon, makes it REINFORCE at a fifth of
  the scale.
- The correction between sampler and learner truncates each token's weight (TRL's token_truncate). TRL's default leaves
  out the completions whose product of weights is above the cap.
- The KL term is the paper's. TRL multiplies it by the ratio unless use_bias_correction_kl is off.
- The quantile of the entropy is taken over the whole step, from the policy that drew the tokens, and so stays the same
  in every iteration. TRL takes it over a micro-batch, of the policy as it is.
- luspo and vespo are refused with the other importance_sampling_level, where TRL warns; delta is refused where nothing
  is clipped.
- Completions that cannot move the policy are not computed; loss and gradient stay what they would have been. Metrics of
  the loss are means over the tokens that are computed, at sequence level too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from groat.algorithms.advantages import group_relative, normalized_then_summed
from groat.algorithms.base import (
    Credit,
    Forward,
    Loss,
    Metric,
    Needs,
    clip_metrics,
    max_metric,
    mean_metric,
    min_metric,
)
from groat.algorithms.credit import is_truncated, length_metrics, reward_metrics, same_for_all
from groat.algorithms.losses import (
    Gamma,
    clipped_policy_losses,
    gamma_weights,
    gated_policy_losses,
    is_on_policy,
    kl_estimates,
    sequence_means,
    sequence_sums,
    truncated_weights,
    weighted_policy_losses,
)
from groat.batching import Targets, Totals
from groat.config.algorithms import GRPOAlgorithmConfig
from groat.types import Completion, Group, Sample

CISPO_CAP = 5.0


class GRPO:
    """Compare each answer with the others to the same question."""

    def __init__(
        self,
        config: GRPOAlgorithmConfig,
        max_completion_length: int,
        reward_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.config = config
        self.max_completion_length = max_completion_length
        self.reward_weights = dict(reward_weights or {})
        self.needs = Needs(
            reference_logprobs=config.beta > 0,
            old_logprobs=config.num_iterations > 1,
            entropies=config.top_entropy_quantile < 1,
            entropy_gradient=config.entropy_coef > 0,
        )
        self.num_iterations = config.num_iterations

    def with_entropy_coef(self, coefficient: float) -> GRPO:
        """The same with another weight of the entropy."""
        return GRPO(replace(self.config, entropy_coef=coefficient), self.max_completion_length, self.reward_weights)

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        entropy = self._least_entropy(groups)
        samples_by_group = [
            self._samples(group, advantages, entropy)
            for group, advantages in zip(groups, self._advantages(groups), strict=True)
        ]
        metrics = reward_metrics(groups) | length_metrics(groups)
        return Credit(
            samples=tuple(sample for samples in samples_by_group for sample in samples),
            totals=self._totals(groups),
            metrics=metrics | {"skipped_groups": float(sum(not samples for samples in samples_by_group))},
        )

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        config = self.config
        old_N = forward.logprobs_N.detach() if targets.old_logprobs_N is None else targets.old_logprobs_N
        weights_N = self._sampler_weights(old_N, targets)
        losses_N, metrics = self._policy_losses(forward.logprobs_N, old_N, weights_N, targets)
        if config.off_policy_mask_threshold is not None:
            kept_N = is_on_policy(
                forward.logprobs_N, old_N, targets.advantages_N, targets, threshold=config.off_policy_mask_threshold
            )
            losses_N = losses_N * kept_N
            metrics["off_policy_masked"] = mean_metric((~kept_N).to(losses_N.dtype))
        if config.importance_sampling_correction:
            metrics |= _weight_metrics(weights_N)
        if config.beta > 0:
            assert targets.reference_logprobs_N is not None
            kl_N = kl_estimates(forward.logprobs_N, targets.reference_logprobs_N)
            losses_N = losses_N + config.beta * kl_N
            metrics["kl"] = mean_metric(kl_N)
        total = self._added_up(losses_N, targets, totals)
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
            if config.entropy_coef > 0:
                total = total - config.entropy_coef * forward.entropy_N.sum() / totals.tokens
        return Loss(total=total, metrics=metrics)

    def _advantages(self, groups: Sequence[Group]) -> list[list[float]]:
        if self.config.multi_objective_aggregation == "normalize_then_sum":
            return normalized_then_summed(groups, self.reward_weights)
        return group_relative(groups, self.config.scale_rewards)

    def _samples(self, group: Group, advantages: Sequence[float], entropy: float) -> list[Sample]:
        """The completions that can move the policy: by their advantage, the KL term or the entropy term."""
        trains_all = self.config.beta > 0 or self.config.entropy_coef > 0
        return [
            Sample(prompt=group.prompt, completion=completion, advantages=_of_tokens(completion, advantage, entropy))
            for completion, advantage in zip(group.completions, advantages, strict=True)
            if self._counts(completion) and (advantage != 0 or trains_all)
        ]

    def _least_entropy(self, groups: Sequence[Group]) -> float:
        """Of the tokens that are trained on; -inf: all are."""
        if not self.needs.entropies:
            return -np.inf
        counted = [completion for group in groups for completion in group.completions if self._counts(completion)]
        entropies = [entropy for completion in counted for entropy in completion.entropies or ()]
        return float(np.quantile(entropies, 1 - self.config.top_entropy_quantile)) if entropies else -np.inf

    def _counts(self, completion: Completion) -> bool:
        return not (self.config.mask_truncated_completions and is_truncated(completion))

    def _totals(self, groups: Sequence[Group]) -> Totals:
        """As in TRL, a truncated completion that is left out still counts as a sequence, but its tokens do not."""
        completions = [completion for group in groups for completion in group.completions]
        return Totals(
            sequences=len(completions),
            tokens=sum(completion.num_drawn for completion in completions if self._counts(completion)),
        )

    def _sampler_weights(self, old_N: Tensor, targets: Targets) -> Tensor:
        if not self.config.importance_sampling_correction:
            return torch.ones_like(old_N)
        return truncated_weights(old_N, targets.sampler_logprobs_N, cap=self.config.importance_sampling_cap)

    def _policy_losses(
        self, logprobs_N: Tensor, old_N: Tensor, weights_N: Tensor, targets: Targets
    ) -> tuple[Tensor, dict[str, Metric]]:
        config, advantages_N = self.config, targets.advantages_N
        log_ratio_N = logprobs_N - old_N
        if config.loss_type == "vespo":
            # Its weight is that of the whole completion from where it was drawn, so the sampler's goes inside.
            log_w_S = sequence_sums(log_ratio_N + weights_N.log(), targets.sequence_N, targets.lengths_S)
            phi_N = gamma_weights(log_w_S[targets.sequence_N], advantages_N, *self._gammas)
            return -phi_N * advantages_N * logprobs_N, {"vespo/phi_mean": mean_metric(phi_N)}
        if config.importance_sampling_level == "sequence":
            log_ratio_N = sequence_means(log_ratio_N, targets.sequence_N, targets.lengths_S)
        ratio_N = log_ratio_N.exp()
        match config.loss_type:
            case "cispo":
                losses_N = weighted_policy_losses(ratio_N, advantages_N, logprobs_N, cap=self._highest)
                over_N = (ratio_N > self._highest) & (advantages_N > 0)
                metrics = {"cispo_clip_ratio": mean_metric(over_N.to(ratio_N.dtype))}
            case "sapo":
                losses_N = gated_policy_losses(
                    ratio_N,
                    advantages_N,
                    positive=config.sapo_temperature_pos,
                    negative=config.sapo_temperature_neg,
                )
                metrics = {}
            case _:
                low, high = 1 - config.epsilon, self._highest
                losses_N = clipped_policy_losses(ratio_N, advantages_N, low=low, high=high, bound=config.delta)
                metrics = clip_metrics(ratio_N, advantages_N, low=low, high=high)
        return losses_N * weights_N, metrics

    def _added_up(self, losses_N: Tensor, targets: Targets, totals: Totals) -> Tensor:
        match self.config.loss_type:
            case "grpo" | "sapo":
                return (losses_N / targets.lengths_S[targets.sequence_N]).sum() / totals.sequences
            case "luspo":
                return losses_N.sum() / totals.sequences
            case "dr_grpo":
                return losses_N.sum() / (totals.sequences * self.max_completion_length)
            case "dapo" | "bnpo" | "cispo" | "vespo":
                return losses_N.sum() / totals.tokens

    @property
    def _gammas(self) -> tuple[Gamma, Gamma]:
        config = self.config
        return Gamma(config.vespo_k_pos, config.vespo_lambda_pos), Gamma(config.vespo_k_neg, config.vespo_lambda_neg)

    @property
    def _highest(self) -> float:
        epsilon_high = self.config.epsilon_high
        if self.config.loss_type == "cispo":
            return CISPO_CAP if epsilon_high is None else epsilon_high
        return 1 + (self.config.epsilon if epsilon_high is None else epsilon_high)


def _of_tokens(completion: Completion, advantage: float, least_entropy: float) -> tuple[float, ...]:
    """Tokens with less than the least entropy have no advantage, and so no gradient but the KL term's."""
    if completion.entropies is None or least_entropy == -np.inf:
        return same_for_all(completion, advantage)
    return tuple(advantage if entropy >= least_entropy else 0.0 for entropy in completion.entropies)


def _weight_metrics(weights_N: Tensor) -> dict[str, Metric]:
    return {
        "sampling/importance_sampling_ratio/mean": mean_metric(weights_N),
        "sampling/importance_sampling_ratio/min": min_metric(weights_N),
        "sampling/importance_sampling_ratio/max": max_metric(weights_N),
    }
