"""Worked examples through the learner: prompts are masked, packing changes nothing, others compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from learner_examples import SPEC, Taken, one_update, random_samples
from padded_transformers import merged_transformers_llama
from tiny_decoders import completion_of, prompt_of, tiny_adapter, tiny_decoder, tiny_spec
from torch.nn.functional import cross_entropy

from groat.algorithms.base import Credit
from groat.algorithms.supervised import Supervised
from groat.config.tree import TrainingConfig
from groat.learning.learner import Learner, LearnerPlan
from groat.model.attention import tree_attention
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.trees import Node
from groat.types import Group, Sample

SUPERVISED = Supervised()


def learner(dtype: torch.dtype = torch.float64, spec=SPEC, **plan: int) -> Learner:
    decoder, adapter = tiny_decoder(spec, dtype=dtype), tiny_adapter(spec, dtype=dtype)
    sizes = LearnerPlan(**({"microbatch_tokens": 10_000, "head_chunk_tokens": 5} | plan), recompute=None)
    training = TrainingConfig(learning_rate=1e-2, lr_scheduler_type="constant")
    return Learner(decoder, adapter, sizes, training, temperature=1.0, num_updates=10)


def groups() -> list[Group]:
    """Answers to prompts with a common beginning, one of a chat whose second turn goes on from its first."""
    samples = random_samples(scored=False)
    first, then = (7, 8, 9, 10, 11), (12, 13)
    chat = [
        Group(prompt=prompt_of(first), completions=(completion_of(then),)),
        Group(prompt=prompt_of((*first, *then, 14, 15)), completions=(completion_of((16, 17, 18)),)),
    ]
    return [*chat, *(Group(prompt=sample.prompt, completions=(sample.completion,)) for sample in samples)]


def credit() -> Credit:
    return SUPERVISED.assign_credit(groups())


def taken(of: Learner, given: Credit) -> Taken:
    return one_update(of, given, SUPERVISED)  # type: ignore[arg-type]


def plain_logits(decoder: Decoder, ids: tuple[int, ...], adapter: Adapter) -> torch.Tensor:
    """Of one sequence, computed whole: no tree, no chunks."""
    nodes = (Node(0, len(ids), len(ids), is_root=True),)
    hidden_TH = decoder.hidden(
        torch.tensor(ids), torch.arange(len(ids)), lambda _, *heads: tree_attention(*heads, nodes), adapter
    )
    return decoder.final_norm(hidden_TH) @ decoder.weights.head_VH.T  # type: ignore[union-attr]


def one_by_one(samples: tuple[Sample, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor], float]:
    """Loss, gradients and share of tokens that are the likeliest, from whole logits and torch's cross_entropy."""
    decoder, adapter = tiny_decoder(SPEC, dtype=torch.float64), tiny_adapter(SPEC, dtype=torch.float64)
    losses, right = [], []
    for sample in samples:
        start = len(sample.prompt.token_ids)
        ids = (*sample.prompt.token_ids, *sample.completion.token_ids)
        labels_T = torch.tensor(ids)
        labels_T[:start] = -100
        logits_TV = plain_logits(decoder, ids, adapter)
        losses.append(cross_entropy(logits_TV[:-1], labels_T[1:], ignore_index=-100, reduction="sum"))
        right += (logits_TV[start - 1 : -1].argmax(1) == labels_T[start:]).tolist()
    loss = torch.stack(losses).sum() / len(right)
    named = adapter.named_tensors()
    gradients = torch.autograd.grad(loss, list(named.values()))
    return loss, dict(zip(named, gradients, strict=True)), sum(right) / len(right)


def test_loss_gradient_and_accuracy_are_those_of_cross_entropy_with_masked_prompts_one_sequence_at_a_time() -> None:
    found = taken(learner(), credit())
    loss, gradients, accuracy = one_by_one(credit().samples)
    assert found.update.metrics["loss"] == pytest.approx(loss.item(), rel=1e-7)
    assert found.update.metrics["token_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert 0 < accuracy < 1
    for name, gradient in gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-6, atol=1e-9)


def padded(samples: tuple[Sample, ...]) -> dict[str, torch.Tensor]:
    """What transformers' models take, with labels for the answers alone."""
    rows = [(*sample.prompt.token_ids, *sample.completion.token_ids) for sample in samples]
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *(0,) * (longest - len(row))] for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    for place, sample in enumerate(samples):
        labels_BT[place, : len(sample.prompt.token_ids)] = -100
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


def trl_batch(samples: tuple[Sample, ...]) -> dict[str, torch.Tensor]:
    """What TRL's SFTTrainer makes of rows whose prompts it has masked."""
    pytest.importorskip("trl")
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    rows = [
        {
            "input_ids": [*sample.prompt.token_ids, *sample.completion.token_ids],
            "labels": [-100] * len(sample.prompt.token_ids) + list(sample.completion.token_ids),
        }
        for sample in samples
    ]
    return dict(DataCollatorForLanguageModeling(pad_token_id=0)(rows))


@pytest.mark.parametrize("batch_of", [padded, trl_batch])
def test_the_loss_is_transformers_for_labels_with_masked_prompts(batch_of: Callable[..., Any]) -> None:
    """TRL's SFTTrainer takes that model's loss for what its collator makes of the rows."""
    spec = tiny_spec(qk_norm=False, qkv_bias=True, output_bias=True, mlp_bias=True)
    decoder, adapter = tiny_decoder(spec, dtype=torch.float64), tiny_adapter(spec, dtype=torch.float64)
    model, parameters = merged_transformers_llama(decoder, adapter)
    batch = batch_of(credit().samples)
    theirs = torch.func.functional_call(model, parameters, kwargs=batch).loss
    ours = learner(spec=spec).update(credit(), SUPERVISED).metrics["loss"]
    assert ours == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("plan", [{"microbatch_tokens": 1}, {"microbatch_tokens": 45, "head_chunk_tokens": 1}])
def test_packing_and_order_change_neither_loss_nor_gradient(plan: dict[str, int]) -> None:
    whole = taken(learner(), credit())
    turned = SUPERVISED.assign_credit(list(reversed(groups())))
    cut = taken(learner(**plan), turned)
    assert cut.update.metrics["loss"] == pytest.approx(whole.update.metrics["loss"], rel=1e-7)
    for name, gradient in whole.gradients.items():
        torch.testing.assert_close(cut.gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_the_gradient_is_the_finite_difference_of_the_loss() -> None:
    gradients = taken(learner(), credit()).gradients
    norm = sum(float(gradient.square().sum()) for gradient in gradients.values())

    def loss_at(distance: float) -> float:
        moved = learner()
        for name, tensor in moved.adapter.named_tensors().items():
            tensor.data.add_(gradients[name], alpha=distance)
        return moved.update(credit(), SUPERVISED).metrics["loss"]

    step = 1e-5 / norm**0.5
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(norm, rel=1e-4)


def test_two_turns_of_a_chat_are_computed_once() -> None:
    chat = SUPERVISED.assign_credit(groups()[:2])
    # 5 tokens of the first prompt, 2 of its answer, 2 more of the second prompt, and 2 of 3: the last predicts nothing.
    assert learner().update(chat, SUPERVISED).num_tokens == 11


def test_learning_makes_examples_likelier_until_they_are_known_by_heart() -> None:
    few = SUPERVISED.assign_credit(groups()[:2])
    pupil = learner(torch.float32)
    figures = [pupil.update(few, SUPERVISED).metrics for _ in range(60)]
    assert figures[0]["loss"] > 2
    assert figures[-1]["loss"] < 0.6  # logits of this model are small: no token can be certain
    assert figures[-1]["token_accuracy"] == 1
