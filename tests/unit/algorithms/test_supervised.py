"""The loss of worked examples, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_decoders import completion_of, prompt_of, sample_of

from groat.algorithms.base import Forward, join_metrics
from groat.algorithms.supervised import Supervised
from groat.batching import Totals, pack
from groat.types import Group

SUPERVISED = Supervised()


def forward_of(probabilities: list[float], is_greedy: list[bool]) -> Forward:
    logprobs_N = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
    return Forward(logprobs_N=logprobs_N, is_greedy_N=torch.tensor(is_greedy))


def test_the_loss_is_the_mean_cross_entropy_of_all_tokens_and_its_gradient_the_same_for_each() -> None:
    """Tokens of probability 1/2, 1/4, 1/8 and 1/2: (1 + 2 + 3 + 1) ln 2 / 4, not a mean of the two answers' means."""
    [microbatch] = pack([sample_of((1, 2), (3, 4, 5)), sample_of((1, 2), (6,))], 100)
    forward = forward_of([0.5, 0.25, 0.125, 0.5], [True, False, False, True])
    targets = replace(microbatch.targets, advantages_N=microbatch.targets.advantages_N.double())
    loss = SUPERVISED.loss(forward, targets, Totals(sequences=2, tokens=4))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(7 / 4 * math.log(2), abs=1e-12)
    assert forward.logprobs_N.grad is not None
    assert forward.logprobs_N.grad.tolist() == [-0.25] * 4
    assert join_metrics([loss])["token_accuracy"] == 0.5


def test_every_answer_is_learned_whatever_it_earned_and_counts_by_its_tokens() -> None:
    groups = [
        Group(prompt=prompt_of((1,)), completions=(completion_of((2, 3)),)),
        Group(prompt=prompt_of((1, 4)), completions=(completion_of((5, 6, 7)),)),
    ]
    credit = SUPERVISED.assign_credit(groups)
    assert [sample.advantages for sample in credit.samples] == [(1.0, 1.0), (1.0, 1.0, 1.0)]
    assert credit.totals == Totals(sequences=2, tokens=5)
