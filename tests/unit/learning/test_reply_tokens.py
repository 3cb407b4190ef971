"""Tokens that a tool wrote are read and nothing else: no gradient, no log-prob, no entropy, no count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from conversations import conversation_of, rewarded_group, sample_of_turns
from learner_examples import TEMPERATURE, credit_of, grpo, learner_of, one_update
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.algorithms.base import Algorithm, Forward, Needs
from groat.algorithms.online_dpo import OnlineDPO
from groat.algorithms.reinforce import Reinforce
from groat.algorithms.rloo import RLOO
from groat.batching import pack
from groat.config.algorithms import OnlineDPOAlgorithmConfig, ReinforceAlgorithmConfig, RLOOAlgorithmConfig
from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.trees import Node
from groat.types import Completion, Sample

PROMPT = (1, 2, 3, 4, 5)
TURNS = [(6, 7), (8, 9, 10), (11, 12), (13,), (14,)]
"""The model's, a reply, the model's, a reply, the model's."""
IS_REPLY = [False, False, True, True, True, False, False, True, False]
SAMPLES = [
    sample_of_turns(PROMPT, TURNS, 0.75),
    sample_of_turns(PROMPT, [(6, 7), (8, 9, 9, 9), (2,)], -1.25),
    sample_of_turns(PROMPT, [(20, 21, 22)], 0.5),
]
LOSSES = ["grpo", "dapo", "dr_grpo", "cispo", "luspo", "vespo"]


def logits_of(decoder: Decoder, token_ids: Sequence[int], adapter: Adapter | None) -> torch.Tensor:
    """[T, V] of one sequence, computed whole, with gradients."""
    length = len(token_ids)
    hidden_TH = decoder.hidden(
        torch.tensor(token_ids),
        torch.arange(length),
        lambda _, queries, keys, values: tree_attention(queries, keys, values, (Node(0, length, length, True),)),
        adapter,
    )
    return decoder.final_norm(hidden_TH) @ decoder.weights.head_VH.T


def grpo_with(loss_type: str, **config: object) -> Algorithm:
    if loss_type == "luspo":
        config["importance_sampling_level"] = "sequence"
    return grpo(loss_type=loss_type, importance_sampling_correction=False, **config)


ALGORITHMS: dict[str, Algorithm] = {
    **{loss_type: grpo_with(loss_type) for loss_type in LOSSES},
    "rloo": RLOO(RLOOAlgorithmConfig(beta=0.0)),
    "reinforce++": Reinforce(ReinforceAlgorithmConfig()),
}


def test_drawn_places_by_hand():
    completion = conversation_of(TURNS)
    assert completion.token_ids == (6, 7, 8, 9, 10, 11, 12, 13, 14)
    assert completion.replies == ((2, 5), (7, 8))
    assert completion.drawn_places == [0, 1, 5, 6, 8]
    assert completion.num_drawn == 5
    assert conversation_of([(1, 2)]).drawn_places == [0, 1]


def test_targets_hold_the_drawn_tokens_and_nothing_of_the_replies():
    [microbatch] = pack(SAMPLES[:1], 100)
    # What is behind the last but one token predicts nothing: of 5 + 9 tokens 13 are computed.
    assert microbatch.token_ids_T.tolist() == [*PROMPT, 6, 7, 8, 9, 10, 11, 12, 13]
    assert microbatch.targets.token_ids_N.tolist() == [6, 7, 11, 12, 14]
    # The prompt's last row predicts 6; the reply's last rows, 10 in row 9 and 13 in row 12, predict 11 and 14.
    assert microbatch.predictor_N.tolist() == [4, 5, 9, 10, 12]
    assert microbatch.targets.lengths_S.tolist() == [5.0]


def test_a_reply_at_the_end_is_not_even_computed():
    [microbatch] = pack([sample_of_turns(PROMPT, [(6, 7), (8, 9)], 1.0)], 100)
    assert microbatch.token_ids_T.tolist() == [*PROMPT, 6]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_logits_of_reply_tokens_have_a_gradient_of_exactly_zero(name: str):
    algorithm = ALGORITHMS[name]
    decoder, adapter = tiny_decoder(dtype=torch.float64), tiny_adapter(dtype=torch.float64)
    [microbatch] = pack(SAMPLES[:1], 100)
    logits_TV = logits_of(decoder, microbatch.token_ids_T.tolist(), adapter)
    logits_TV.retain_grad()
    logprobs_TV = torch.log_softmax(logits_TV / TEMPERATURE, dim=-1)
    drawn_N = logprobs_TV[microbatch.predictor_N, microbatch.targets.token_ids_N]
    credit = credit_of(SAMPLES[:1])
    algorithm.loss(Forward(logprobs_N=drawn_N), microbatch.targets, credit.totals).total.backward()
    assert logits_TV.grad is not None
    of_completion = logits_TV.grad[len(PROMPT) - 1 :]  # row t predicts token t of the completion
    for place, is_reply in enumerate(IS_REPLY):
        is_zero = bool((of_completion[place] == 0).all())
        assert is_zero == is_reply, place


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("microbatch_tokens", [10_000, 14])
def test_gradient_is_that_of_a_loss_masked_by_hand(loss_type: str, microbatch_tokens: int):
    """Every sequence by itself, whole; the log-probs of all of its tokens, multiplied by a mask."""
    decoder, adapter = tiny_decoder(dtype=torch.float64), tiny_adapter(dtype=torch.float64)
    taken = one_update(
        learner_of(decoder, adapter, microbatch_tokens=microbatch_tokens), credit_of(SAMPLES), grpo_with(loss_type)
    )
    totals = credit_of(SAMPLES).totals
    by_hand = tiny_adapter(dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for sample in SAMPLES:
        token_ids = sample.completion.token_ids
        logits_TV = logits_of(decoder, sample.prompt.token_ids + token_ids, by_hand)
        logprobs_TV = torch.log_softmax(logits_TV / TEMPERATURE, dim=-1)
        start = len(sample.prompt.token_ids) - 1
        logprobs_C = logprobs_TV[range(start, start + len(token_ids)), token_ids]
        mask_C = torch.ones(len(token_ids), dtype=torch.float64)
        for reply in sample.completion.replies:
            mask_C[reply.start : reply.end] = 0
        # On policy every ratio is 1, and the gradient of each loss is that of its surrogate.
        terms_C = -sample.advantages[0] * logprobs_C * mask_C
        match loss_type:
            case "grpo":
                loss = loss + terms_C.sum() / mask_C.sum() / totals.sequences
            case "dr_grpo":
                loss = loss + terms_C.sum() / (totals.sequences * 16)
            case "luspo":  # the ratio of a whole sequence, for each of its tokens
                loss = loss + terms_C.sum() / totals.sequences
            case _:
                loss = loss + terms_C.sum() / totals.tokens
    loss.backward()
    for name, parameter in by_hand.named_tensors().items():
        assert parameter.grad is not None
        assert torch.allclose(taken.gradients[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_length_of_a_tools_text_changes_no_loss_and_no_count(name: str):
    """On policy a loss is a sum of advantages over counts, whatever the model has read in between."""
    algorithm = ALGORITHMS[name]
    decoder = tiny_decoder(dtype=torch.float64)

    def figures(num_reply_tokens: int) -> tuple[float, object, float]:
        reply = tuple(range(1, num_reply_tokens + 1))
        completions = [
            conversation_of([(6, 7), reply, (8,)]),
            conversation_of([(9,)]),
            conversation_of([(3, 3), reply, (4, 5)]),
        ]
        credit = algorithm.assign_credit([rewarded_group(completions, (1.0, 0.0, 0.25), PROMPT)])
        # vespo's loss holds log-probs themselves, which depend on what was read; its weights and counts do not.
        update = learner_of(decoder, tiny_adapter(dtype=torch.float64)).update(credit, algorithm)
        loss = 0.0 if name in ("vespo", "cispo") else update.metrics["loss"]
        return loss, credit.totals, credit.metrics["completions/mean_length"]

    short, long = figures(2), figures(20)
    assert short[0] == pytest.approx(long[0], abs=1e-12)
    assert short[1:] == long[1:]
    assert short[2] == pytest.approx(8 / 3)  # 3, 1 and 4 drawn tokens


def test_scores_are_of_the_drawn_tokens_only_and_right():
    decoder, adapter = tiny_decoder(dtype=torch.float64), tiny_adapter(dtype=torch.float64)
    group = rewarded_group([conversation_of(TURNS), conversation_of([(20, 21)])], (1.0, 0.0), PROMPT)
    needs = Needs(old_logprobs=True, reference_logprobs=True, entropies=True)
    [scored] = learner_of(decoder, adapter).score([group], needs)
    for completion in scored.completions:
        for policy, found in ((adapter, completion.old_logprobs), (None, completion.reference_logprobs)):
            expected = _logprobs(completion, policy)
            assert found == pytest.approx([expected[place] for place in completion.drawn_places], abs=1e-6)
        assert completion.entropies is not None
        assert len(completion.entropies) == completion.num_drawn


def _logprobs(completion: Completion, adapter: Adapter | None) -> list[float]:
    decoder = tiny_decoder(dtype=torch.float64)
    logits_TV = logits_of(decoder, PROMPT + completion.token_ids, adapter)
    rows = range(len(PROMPT) - 1, len(PROMPT) - 1 + len(completion.token_ids))
    return torch.log_softmax(logits_TV / TEMPERATURE, dim=-1)[rows, completion.token_ids].tolist()


def test_sequence_ratios_do_not_see_replies():
    """GSPO: the mean log-ratio of the drawn tokens. What the old policy thought of a reply is nowhere."""
    algorithm = grpo_with("grpo", importance_sampling_level="sequence", epsilon=10.0)
    completion = replace(conversation_of([(6, 7), (8, 9, 10), (11,)]), old_logprobs=(-1.0, -2.0, -3.0))
    sample = Sample(prompt=SAMPLES[0].prompt, completion=completion, advantages=(2.0,) * 3)
    [microbatch] = pack([sample], 100)
    logprobs_N = torch.tensor([-0.7, -2.0, -3.0])
    loss = algorithm.loss(Forward(logprobs_N=logprobs_N), microbatch.targets, credit_of([sample]).totals)
    # exp((0.3 + 0 + 0) / 3) = 1.105171; a mean over the sequence of -2 x that, over 1 + 2 sequences.
    assert loss.total.item() == pytest.approx(-2 * 1.105171 / 3, rel=1e-5)


def test_the_pair_of_online_dpo_has_no_reply_in_its_margin():
    algorithm = OnlineDPO(OnlineDPOAlgorithmConfig(beta=0.5))
    completions = [
        replace(conversation_of([(6,), (8, 9), (7,)]), reference_logprobs=(-2.0, -2.0)),
        replace(conversation_of([(5,)]), reference_logprobs=(-1.0,)),
    ]
    credit = algorithm.assign_credit([rewarded_group(completions, (1.0, 0.0), PROMPT)])
    [microbatch] = pack(credit.samples, 100)
    order = microbatch.targets.token_ids_N.tolist()
    logprobs_N = torch.tensor([{6: -1.5, 7: -1.0, 5: -1.2}[token] for token in order])
    loss = algorithm.loss(Forward(logprobs_N=logprobs_N), microbatch.targets, credit.totals)
    # The chosen answer rose by 0.5 + 1, the rejected one by -0.2: the margin is 1.7, and -ln sigmoid(0.85) = 0.355865.
    assert loss.metrics["rewards/margins"].value.item() == pytest.approx(0.85)
    assert loss.total.item() == pytest.approx(0.355865, abs=1e-5)
