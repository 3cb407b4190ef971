"""Online DPO (arXiv:2402.04792): answers are drawn from the policy, and the better one is preferred.

Of each group the answer with the highest reward is chosen over the one with the lowest. The loss of the pair is DPO's
(arXiv:2305.18290) or IPO's (arXiv:2310.12036), of the margin: how much more the log-prob of the chosen answer has risen
above the reference policy's than that of the rejected one. A judge that compares answers gives rewards by how often an
answer won (`tasks/judges.py`).

How we differ from the paper: groups may have more than two answers.

How we differ from TRL 1.16:
- A group without contrast has no pair. It counts as a pair with loss 0; TRL prefers the first of two equal answers.
- Log-probs are those at the sampling temperature, the policy that the answers were drawn from; TRL's are at 1.
- beta is one number for the whole run.
"""

from __future__ import annotations

from collections.abc import Sequence

from groat.algorithms.base import Credit, Forward, Loss, Needs, mean_metric
from groat.algorithms.credit import is_truncated, length_metrics, reward_metrics, same_for_all
from groat.algorithms.losses import preference_losses, sequence_sums
from groat.batching import Targets, Totals
from groat.config.algorithms import OnlineDPOAlgorithmConfig
from groat.types import Group, Sample


class OnlineDPO:
    """Prefer the best answer of a group to the worst."""

    def __init__(self, config: OnlineDPOAlgorithmConfig) -> None:
        self.config = config
        self.needs = Needs(reference_logprobs=True)
        self.num_iterations = config.num_iterations

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        pairs = [self._pair(group, number) for number, group in enumerate(groups)]
        completions = [completion for group in groups for completion in group.completions]
        totals = Totals(
            sequences=len(completions),
            tokens=sum(completion.num_drawn for completion in completions),
            groups=len(groups),
        )
        metrics = reward_metrics(groups) | length_metrics(groups)
        return Credit(
            samples=tuple(sample for pair in pairs for sample in pair),
            totals=totals,
            metrics=metrics | {"skipped_groups": float(sum(not pair for pair in pairs))},
        )

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        assert targets.reference_logprobs_N is not None
        assert targets.bundle_S is not None
        risen_N = forward.logprobs_N - targets.reference_logprobs_N
        # The chosen answer's tokens have an advantage of 1, the rejected one's of -1.
        signed_S = sequence_sums(targets.advantages_N * risen_N, targets.sequence_N, targets.lengths_S)
        margin_B = signed_S.new_zeros(len(signed_S) // 2).index_add(0, targets.bundle_S, signed_S)
        losses_B = preference_losses(margin_B, self.config.loss_type, beta=self.config.beta)
        metrics = {
            "rewards/margins": mean_metric(self.config.beta * margin_B),
            "rewards/accuracies": mean_metric((margin_B > 0).to(margin_B.dtype)),
            "kl": mean_metric(risen_N),
        }
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        return Loss(total=losses_B.sum() / totals.groups, metrics=metrics)

    def _pair(self, group: Group, number: int) -> list[Sample]:
        """The first of the best and the first of the worst; nothing where all are equal."""
        rewards = self._rewards(group)
        best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
        if best == worst:
            return []
        return [
            Sample(
                prompt=group.prompt,
                completion=group.completions[place],
                advantages=same_for_all(group.completions[place], sign),
                bundle=number,
            )
            for place, sign in ((best, 1.0), (worst, -1.0))
        ]

    def _rewards(self, group: Group) -> list[float]:
        penalty = self.config.missing_eos_penalty or 0.0
        return [
            reward.total - penalty * is_truncated(completion)
            for completion, reward in zip(group.completions, group.rewards, strict=True)
        ]
