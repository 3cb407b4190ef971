"""Pieces that several algorithms give credit with, and what a step earned and how long its answers were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groat.types import Completion, FinishReason, Group


def same_for_all(completion: Completion, advantage: float) -> tuple[float, ...]:
    """One advantage for every drawn token."""
    return (advantage,) * completion.num_drawn


def is_truncated(completion: Completion) -> bool:
    return completion.finish_reason is FinishReason.LENGTH


def reference_log_ratios(completion: Completion) -> list[float]:
    """Per token, how much likelier it was than for the reference policy, in nats: their sum estimates the divergence of
    the policy that drew them. The learner's own log-probs if it has found them, else the sampler's."""
    assert completion.reference_logprobs is not None
    drawn = completion.policy_logprobs if completion.old_logprobs is None else completion.old_logprobs
    return [ours - theirs for ours, theirs in zip(drawn, completion.reference_logprobs, strict=True)]


def has_contrast(group: Group) -> bool:
    """Whether rewards differ at all. Their standard deviation cannot tell: that of (0.1, 0.1, 0.1) is 1e-17."""
    rewards = [reward.total for reward in group.rewards]
    return max(rewards) > min(rewards)


def standard_deviation(values: Sequence[float]) -> float:
    """The unbiased one, over n - 1; 0 where there are fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def reward_metrics(groups: Sequence[Group]) -> dict[str, float]:
    rewards = [reward for group in groups for reward in group.rewards]
    totals = [reward.total for reward in rewards]
    metrics = {
        "reward": float(np.mean(totals)),
        "reward_std": standard_deviation(totals),
        "frac_reward_zero_std": float(np.mean([not has_contrast(group) for group in groups])),
    }
    for name in dict.fromkeys(name for reward in rewards for name in reward.parts):
        parts = [part for reward in rewards if (part := reward.parts.get(name)) is not None]
        if parts:
            metrics[f"rewards/{name}/mean"] = float(np.mean(parts))
            metrics[f"rewards/{name}/std"] = standard_deviation(parts)
    return metrics


def length_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Lengths in drawn tokens. Those of terminated completions are 0 where every completion was truncated."""
    completions = [completion for group in groups for completion in group.completions]
    lengths = [completion.num_drawn for completion in completions]
    terminated = [completion.num_drawn for completion in completions if not is_truncated(completion)] or [0]
    return {
        "completions/mean_length": float(np.mean(lengths)),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": float(np.mean(terminated)),
        "completions/min_terminated_length": float(min(terminated)),
        "completions/max_terminated_length": float(max(terminated)),
        "completions/clipped_ratio": float(np.mean([is_truncated(completion) for completion in completions])),
    }
