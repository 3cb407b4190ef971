"""Supervised learning of worked examples: the mean cross-entropy of their tokens, in nats.

What the cold start before reinforcement learning trains with (DeepSeek-R1, arXiv:2501.12948, section 2.3.1). Tokens of
a prompt are no targets. The mean is over all target tokens of the step, so that micro-batches change nothing: TRL's
SFTTrainer does the same where it knows the number of tokens of a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence

from groat.algorithms.base import Credit, Forward, Loss, Needs, mean_metric
from groat.algorithms.credit import same_for_all
from groat.batching import Targets, Totals
from groat.types import Group, Sample


class Supervised:
    """Make every completion likelier, whatever it earned."""

    needs = Needs(greedy=True)
    num_iterations = 1

    def assign_credit(self, groups: Sequence[Group]) -> Credit:
        """All completions; there is nothing to compare."""
        samples = tuple(
            Sample(prompt=group.prompt, completion=completion, advantages=same_for_all(completion, 1.0))
            for group in groups
            for completion in group.completions
        )
        totals = Totals(sequences=len(samples), tokens=sum(sample.num_tokens for sample in samples))
        return Credit(samples=samples, totals=totals, metrics={"tokens": float(totals.tokens)})

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        assert forward.is_greedy_N is not None
        metrics = {"token_accuracy": mean_metric(forward.is_greedy_N.double())}
        if forward.entropy_N is not None:
            metrics["entropy"] = mean_metric(forward.entropy_N)
        return Loss(total=-(targets.advantages_N * forward.logprobs_N).sum() / totals.tokens, metrics=metrics)
