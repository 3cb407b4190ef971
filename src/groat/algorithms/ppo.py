"""Proximal Policy Optimization (arXiv:1707.06347), as language models are trained with it (arXiv:1909.08593).

Every token is an action, and what is known before it a state. A token's reward is minus kl_coef times its divergence
from the reference policy; the last one's also has the completion's reward. A value model, the shared trunk with an
adapter and a head of its own, says what rewards are still to come; advantages are by generalized advantage estimation
(arXiv:1506.02438). The value model is drawn towards advantages + values, by a squared error that is clipped too.

How we differ from the papers: the value model and the policy share the frozen weights and nothing else; clipping of the
value is that of OpenAI's code, where moving past the border does not pay; kl_coef does not adapt;
log-probs before the first update are the sampler's, which agree with the learner's up to rounding.

How we differ from TRL's PPOTrainer (1.12, the last version that has one):
- Rewards come from functions, and there may be several completions to a prompt.
- A completion ends with its last token, which has its reward. TRL adds a state behind the end of those that are shorter
  than the longest possible, with a value to be learned, and puts the reward there.
- Completions end at the model's stop tokens, as everywhere in groat; TRL's go on unless stop_token is set.
- Sums are over all micro-batches of an update; TRL makes an update of each micro-batch.
- Policy and value model have a gradient norm each, clipped to max_grad_norm, and learning rates of their own if asked.
- Whitening of the advantages can be turned off, and leaves equal ones at exactly 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from groat.algorithms.advantages import generalized_advantages, whitened
from groat.algorithms.base import Credit, Forward, Loss, Needs, clip_metrics, mean_metric
from groat.algorithms.credit import is_truncated, length_metrics, reference_log_ratios, reward_metrics
from groat.algorithms.losses import clipped_policy_losses, clipped_value_losses
from groat.batching import Targets, Totals
from groat.config.algorithms import PPOAlgorithmConfig
from groat.types import Completion, Group, Reward, Sample


class PPO:
    """Compare what came of a token with what was expected before it."""

    def __init__(self, config: PPOAlgorithmConfig) -> None:
        self.config = config
        self.needs = Needs(reference_logprobs=config.kl_coef > 0, values=True)
        self.num_iterations = config.num_iterations

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        completions = [completion for group in groups for completion in group.completions]
        divergences = [self._divergences(completion) for completion in completions]
        values = [_values(completion) for completion in completions]
        rewards = self._rewards(groups, divergences)
        advantages = [
            generalized_advantages(rewards_L, values_L, gamma=self.config.gamma, lam=self.config.lam)
            for rewards_L, values_L in zip(rewards, values, strict=True)
        ]
        returns = [gained + expected for gained, expected in zip(advantages, values, strict=True)]
        credited = whitened(advantages) if self.config.whiten_advantages else advantages
        prompts = [group.prompt for group in groups for _ in group.completions]
        samples = [
            Sample(
                prompt=prompt,
                completion=self._with_old_logprobs(completion),
                advantages=tuple(advantages_L.tolist()),
                returns=tuple(returns_L.tolist()),
            )
            for prompt, completion, advantages_L, returns_L in zip(prompts, completions, credited, returns, strict=True)
        ]
        metrics = reward_metrics(groups) | length_metrics(groups) | _value_metrics(values, returns)
        if self.config.kl_coef > 0:
            metrics["kl"] = float(np.mean(np.concatenate(divergences)))
        return Credit(
            samples=tuple(samples),
            totals=_totals(samples),
            metrics=metrics,
            mini_batches=tuple(self._mini_batches(samples)),
        )

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        old_N = forward.logprobs_N.detach() if targets.old_logprobs_N is None else targets.old_logprobs_N
        log_ratio_N = forward.logprobs_N - old_N
        ratio_N, low, high = log_ratio_N.exp(), 1 - self.config.cliprange, 1 + self.config.cliprange
        losses_N = clipped_policy_losses(ratio_N, targets.advantages_N, low=low, high=high)
        metrics = clip_metrics(ratio_N, targets.advantages_N, low=low, high=high) | {
            "loss/policy_avg": mean_metric(losses_N),
            "policy/approxkl_avg": mean_metric(log_ratio_N**2 / 2),
            "val/ratio": mean_metric(ratio_N),
        }
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        return Loss(total=losses_N.sum() / totals.tokens, metrics=metrics)

    def value_loss(self, values_N: Tensor, targets: Targets, totals: Totals) -> Loss:
        assert targets.old_values_N is not None
        assert targets.returns_N is not None
        losses_N, clipped_N = clipped_value_losses(
            values_N, targets.old_values_N, targets.returns_N, reach=self.config.cliprange_value
        )
        metrics = {
            "loss/value_avg": mean_metric(losses_N),
            "val/clipfrac_avg": mean_metric(clipped_N.to(losses_N.dtype)),
        }
        return Loss(total=self.config.vf_coef * losses_N.sum() / totals.tokens, metrics=metrics)

    def _with_old_logprobs(self, completion: Completion) -> Completion:
        """The sampler's, which are the learner's up to rounding: no forward pass is spent on finding them again."""
        if self.num_iterations == 1 or completion.old_logprobs is not None:
            return completion
        return replace(completion, old_logprobs=completion.policy_logprobs)

    def _divergences(self, completion: Completion) -> np.ndarray:
        """From the reference policy, token by token, in nats."""
        if self.config.kl_coef == 0:
            return np.zeros(completion.num_drawn)
        ratios_L = np.array(reference_log_ratios(completion))
        return ratios_L if self.config.kl_estimator == "k1" else np.expm1(-ratios_L) + ratios_L

    def _rewards(self, groups: Sequence[Group], divergences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of every token of every completion."""
        totals = [
            self._total(completion, reward)
            for group in groups
            for completion, reward in zip(group.completions, group.rewards, strict=True)
        ]
        rewards = [-self.config.kl_coef * divergences_L for divergences_L in divergences]
        for rewards_L, total in zip(rewards, totals, strict=True):
            rewards_L[-1] += total
        return whitened(rewards, keep_mean=True) if self.config.whiten_rewards else rewards

    def _total(self, completion: Completion, reward: Reward) -> float:
        return reward.total - (self.config.missing_eos_penalty or 0.0) * is_truncated(completion)

    def _mini_batches(self, samples: Sequence[Sample]) -> Iterator[Credit]:
        """In an order of its own in every epoch, by the policy that drew the completions alone."""
        if self.config.num_mini_batches == 1:
            return
        for epoch in range(self.config.num_ppo_epochs):
            seed = np.random.SeedSequence([samples[0].completion.policy_version, epoch])
            order = np.random.Generator(np.random.Philox(seed)).permutation(len(samples))
            for places in np.split(order, self.config.num_mini_batches):
                share = tuple(samples[place] for place in places)
                yield Credit(samples=share, totals=_totals(share), metrics={})


def _values(completion: Completion) -> np.ndarray:
    assert completion.values is not None
    return np.array(completion.values)


def _totals(samples: Sequence[Sample]) -> Totals:
    return Totals(sequences=len(samples), tokens=sum(sample.num_tokens for sample in samples))


def _value_metrics(values: Sequence[np.ndarray], returns: Sequence[np.ndarray]) -> dict[str, float]:
    """How well the values had foreseen the returns: 1 is perfectly, 0 no better than their mean."""
    values_N, returns_N = np.concatenate(values), np.concatenate(returns)
    variance = float(np.var(returns_N))
    explained = 1 - float(np.var(returns_N - values_N)) / variance if variance > 0 else 0.0
    return {"val/mean": float(np.mean(values_N)), "val/explained_variance": explained}
