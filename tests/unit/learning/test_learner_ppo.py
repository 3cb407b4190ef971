"""PPO through the learner: a value model beside the policy, on the same trunk."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace

import pytest
import torch
from learner_examples import (
    SPEC,
    Taken,
    assert_same_bits,
    bits,
    groups_of,
    grpo,
    learner_of,
    one_update,
    random_samples,
    tiny_learner,
    tiny_value_model,
)
from tiny_decoders import tiny_adapter, tiny_decoder

from groat.algorithms.base import Credit, Forward, Loss, Needs
from groat.algorithms.ppo import PPO
from groat.batching import Targets, Totals
from groat.config.algorithms import PPOAlgorithmConfig
from groat.config.tree import LoraConfig
from groat.learning.learner import Learner
from groat.memory.guard import Guard
from groat.memory.phases import LearnCost
from groat.model.attention import tree_attention
from groat.model.recompute import Recompute
from groat.model.value_model import ValueModel, new_value_model
from groat.trees import Node
from groat.types import Group, Reward, UserError

VALUES = Needs(values=True)


def ppo(**config: object) -> PPO:
    return PPO(PPOAlgorithmConfig(**({"num_ppo_epochs": 1} | config)))  # type: ignore[arg-type]


def graded_groups(seed: int = 0) -> list[Group]:
    groups = groups_of(random_samples(seed, scored=False))
    rewards = iter(torch.rand(100, generator=torch.Generator().manual_seed(3)).tolist())

    def reward() -> Reward:
        value = next(rewards)
        return Reward(total=value, parts={"f": value})

    return [group.with_rewards(tuple(reward() for _ in group.completions)) for group in groups]


def learner_and_values(dtype: torch.dtype = torch.float64, **arguments: object) -> tuple[Learner, ValueModel]:
    values = tiny_value_model(dtype)
    decoder, adapter = tiny_decoder(SPEC, dtype=dtype), tiny_adapter(SPEC, dtype=dtype)
    return learner_of(decoder, adapter, value_model=values, **arguments), values  # type: ignore[arg-type]


def credit_of(algorithm: PPO, *, moved: bool = True) -> Credit:
    """`moved`: as if values and policy had changed since they were scored, so that some are past their borders."""
    needs = replace(algorithm.needs, old_logprobs=True) if moved else algorithm.needs
    groups = learner_and_values()[0].score(graded_groups(), needs)
    if moved:
        generator = torch.Generator().manual_seed(1)

        def shifted(values: tuple[float, ...] | None) -> tuple[float, ...]:
            assert values is not None
            return tuple((torch.tensor(values) + 0.2 * torch.randn(len(values), generator=generator)).tolist())

        groups = [
            replace(
                group,
                completions=tuple(
                    replace(one, values=shifted(one.values), old_logprobs=shifted(one.old_logprobs))
                    for one in group.completions
                ),
            )
            for group in groups
        ]
    return algorithm.assign_credit(groups)


def taken(algorithm: PPO, credit: Credit, **arguments: object) -> Taken:
    learner, values = learner_and_values(**arguments)  # type: ignore[arg-type]
    return one_update(
        learner, credit, algorithm, {f"value.{name}": one for name, one in values.named_tensors().items()}
    )


def directly(group: Group, values: ValueModel) -> list[list[float]]:
    """The values of a group's states by a forward of every prompt and completion alone, no cache and no tree."""
    decoder = tiny_decoder(SPEC, dtype=torch.float64)

    def of(token_ids: tuple[int, ...]) -> torch.Tensor:
        length = len(token_ids)
        hidden_TH = decoder.hidden(
            torch.tensor(token_ids),
            torch.arange(length),
            lambda _, queries, keys, vals: tree_attention(queries, keys, vals, (Node(0, length, length, True),)),
            values.adapter,
        )
        normed_TH = hidden_TH * (hidden_TH.square().mean(-1, keepdim=True) + SPEC.norm_epsilon).rsqrt()
        return normed_TH * decoder.weights.final_norm_H @ values.weight_H + values.bias

    first = len(group.prompt.token_ids) - 1
    return [of(group.prompt.token_ids + one.token_ids)[first:-1].tolist() for one in group.completions]


@pytest.mark.parametrize("microbatch_tokens", [1, 30, 10_000])
def test_scored_values_are_those_of_the_states_before_the_tokens(microbatch_tokens: int) -> None:
    learner, values = learner_and_values(microbatch_tokens=microbatch_tokens)
    scored = learner.score(graded_groups(), VALUES)
    for group, before in zip(scored, graded_groups(), strict=True):
        expected = directly(before, values)
        for completion, of_states in zip(group.completions, expected, strict=True):
            assert completion.values == pytest.approx(of_states, abs=1e-6)
            assert completion.old_logprobs is None
    assert len({value for group in scored for one in group.completions for value in one.values or ()}) > 20


def test_a_new_value_model_expects_nothing() -> None:
    model = new_value_model(SPEC, LoraConfig(r=2), torch.Generator().manual_seed(0))
    learner = learner_of(tiny_decoder(SPEC), tiny_adapter(SPEC), value_model=model)
    scored = learner.score(graded_groups(), VALUES)
    assert {value for group in scored for one in group.completions for value in one.values or ()} == {0.0}
    learner.update(ppo(kl_coef=0.0).assign_credit(scored), ppo(kl_coef=0.0))
    scored = learner.score(graded_groups(), VALUES)
    assert all(value != 0 for group in scored for one in group.completions for value in one.values or ())


def test_values_come_to_foresee_what_comes() -> None:
    """Of the same completions, whose rewards are learned by heart: 40 steps of 4 updates."""
    algorithm = ppo(kl_coef=0.0, num_ppo_epochs=4, lam=1.0)
    model = new_value_model(SPEC, LoraConfig(r=2), torch.Generator().manual_seed(0))
    learner = learner_of(tiny_decoder(SPEC), tiny_adapter(SPEC), value_model=model, value_learning_rate=3e-2)
    explained: list[float] = []
    for _ in range(40):
        credit = algorithm.assign_credit(learner.score(graded_groups(), algorithm.needs))
        explained.append(credit.metrics["val/explained_variance"])
        learner.update(credit, algorithm)
    assert explained[0] == 0
    assert explained[-1] > 0.6


@pytest.mark.parametrize(
    "arguments",
    [
        {"microbatch_tokens": 1},
        {"microbatch_tokens": 45, "head_chunk_tokens": 1},
        {"microbatch_tokens": 60, "recompute": Recompute(every=1)},
    ],
)
def test_packing_changes_neither_losses_nor_gradients(arguments: dict[str, object]) -> None:
    algorithm = ppo(vf_coef=0.5)
    credit = credit_of(algorithm)
    whole, cut = taken(algorithm, credit), taken(algorithm, credit, **arguments)
    assert whole.update.metrics == pytest.approx(cut.update.metrics, rel=1e-6, abs=1e-8)
    assert whole.update.metrics["val/clipfrac_avg"] > 0
    for part, gradient in whole.gradients.items():
        assert gradient.abs().max() > 1e-5, part
        torch.testing.assert_close(cut.gradients[part], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("part", ["layers.", "value."])
def test_gradients_are_finite_differences_of_the_loss(part: str) -> None:
    """Along the gradient itself: of the policy's adapter, and of the value model."""
    algorithm = ppo(vf_coef=0.5)
    credit = credit_of(algorithm)
    gradients = {name: one for name, one in taken(algorithm, credit).gradients.items() if name.startswith(part)}
    norm = sum(float(gradient.square().sum()) for gradient in gradients.values())

    def loss_at(distance: float) -> float:
        learner, values = learner_and_values()
        named = learner.adapter.named_tensors() | {f"value.{name}": t for name, t in values.named_tensors().items()}
        for name, gradient in gradients.items():
            named[name].data.add_(gradient, alpha=distance)
        return learner.update(credit, algorithm).metrics["loss"]

    step = 1e-5 / norm**0.5
    assert (loss_at(step) - loss_at(-step)) / (2 * step) == pytest.approx(norm, rel=1e-3)


def test_the_value_model_changes_nothing_for_the_policy() -> None:
    """The policy moves to the same bits whatever the values' loss weighs, and as it would without a value model."""

    class PolicyAlone:
        """PPO's loss of the policy."""

        def __init__(self) -> None:
            self.needs, self.num_iterations = Needs(), 1
            self.assign_credit, self.loss = algorithm.assign_credit, algorithm.loss

    algorithm = ppo(kl_coef=0.0)
    credit = credit_of(algorithm)
    light, _ = learner_and_values()
    heavy, _ = learner_and_values()
    alone = tiny_learner(dtype=torch.float64)
    light.update(credit, algorithm)
    heavy.update(credit, ppo(kl_coef=0.0, vf_coef=10.0))
    alone.update(credit, PolicyAlone())
    for other in (heavy, alone):
        assert_same_bits(light.adapter.named_tensors(), other.adapter.named_tensors())


def test_the_value_model_has_a_learning_rate_of_its_own() -> None:
    """A first AdamW step with epsilon near 0 moves every weight by the learning rate."""
    algorithm = ppo()
    learner, values = learner_and_values(learning_rate=1e-3, value_learning_rate=4e-3, adam_epsilon=1e-30)
    named = {"policy": learner.adapter.named_tensors(), "value": values.named_tensors()}
    before = {part: bits(tensors) for part, tensors in named.items()}
    learner.update(credit_of(algorithm), algorithm)
    for part, rate in (("policy", 1e-3), ("value", 4e-3)):
        for name, tensor in named[part].items():
            moved = (tensor.detach() - before[part][name]).abs()
            torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-9, atol=0)


@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_each_has_its_gradient_scaled_down_to_max_grad_norm(limit: float) -> None:
    """AdamW's first mean is a tenth of the gradient that reached it."""
    algorithm = ppo(vf_coef=3.0)
    credit = credit_of(algorithm)
    whole = taken(algorithm, credit)
    learner, _ = learner_and_values(max_grad_norm=limit)
    metrics = learner.update(credit, algorithm).metrics
    state = learner.state()
    for part, metric in (("layers.", "grad_norm"), ("value.", "value_grad_norm")):
        gradients = [one for name, one in whole.gradients.items() if name.startswith(part)]
        norm = math.sqrt(sum(float(one.square().sum()) for one in gradients))
        means = [
            one for name, one in state.items() if name.startswith(f"optimizer.{part}") and name.endswith("exp_avg")
        ]
        assert metrics[metric] == pytest.approx(norm, rel=1e-6)
        reached = 10 * math.sqrt(sum(float(one.square().sum()) for one in means))
        assert reached == pytest.approx(limit or norm, rel=1e-3)


def test_mini_batches_are_updates_of_their_own() -> None:
    """The same as updating on each share after the other, with the share's own number of tokens."""
    algorithm = ppo(num_ppo_epochs=2, num_mini_batches=3)
    credit = credit_of(algorithm)
    at_once, _ = learner_and_values()
    one_by_one, _ = learner_and_values()
    metrics = at_once.update(credit, algorithm).metrics
    single = ppo()
    losses = [one_by_one.update(share, single).metrics["loss"] for share in credit.mini_batches]
    assert at_once.adapter.version == len(losses) == 6
    assert metrics["loss"] == pytest.approx(sum(losses) / 6, rel=1e-12)
    assert_same_bits(at_once.state(), one_by_one.state())


def test_a_restored_learner_goes_on_as_the_first_would_have() -> None:
    algorithm = ppo(num_ppo_epochs=2, num_mini_batches=2)

    def step(learner: Learner, seed: int) -> None:
        learner.update(algorithm.assign_credit(learner.score(graded_groups(seed), algorithm.needs)), algorithm)

    first, _ = learner_and_values(torch.float32)
    step(first, 0)
    saved, version = bits(first.state()), first.adapter.version
    step(first, 1)
    second, _ = learner_and_values(torch.float32)
    second.restore(saved, version)
    step(second, 1)
    assert_same_bits(first.state(), second.state())
    assert {name.split(".")[0] for name in saved} == {"adapter", "value", "optimizer"}
    assert {"value.head.weight", "value.head.bias", "optimizer.value.head.weight.exp_avg"} <= saved.keys()


class BrokenValues(PPO):
    """Whose loss of the values is not a number."""

    def value_loss(self, values_N: torch.Tensor, targets: Targets, totals: Totals) -> Loss:
        loss = super().value_loss(values_N, targets, totals)
        return replace(loss, total=loss.total * math.nan)


def test_a_value_loss_that_is_no_number_leaves_all_weights_as_they_are() -> None:
    learner, _ = learner_and_values()
    before = bits(learner.state())
    update = learner.update(credit_of(ppo()), BrokenValues(ppo().config))
    assert update.skipped == "loss is nan"
    assert_same_bits(before, learner.state())


class Watched(PPO):
    """Looks whether what the policy's losses were computed from is still there when the values' turn comes."""

    def __init__(self, config: PPOAlgorithmConfig) -> None:
        super().__init__(config)
        self.logprobs: list[weakref.ref[torch.Tensor]] = []
        self.alive_at_values: list[int] = []

    def loss(self, forward: Forward, targets: Targets, totals: Totals) -> Loss:
        self.logprobs.append(weakref.ref(forward.logprobs_N))
        return super().loss(forward, targets, totals)

    def value_loss(self, values_N: torch.Tensor, targets: Targets, totals: Totals) -> Loss:
        self.alive_at_values.append(sum(one() is not None for one in self.logprobs))
        return super().value_loss(values_N, targets, totals)


def test_activations_of_policy_and_values_never_live_at_once() -> None:
    algorithm = Watched(ppo().config)
    learner, _ = learner_and_values(microbatch_tokens=40)
    learner.update(credit_of(algorithm), algorithm)
    assert len(algorithm.logprobs) > 2
    assert algorithm.alive_at_values == [0] * len(algorithm.logprobs)


def test_without_a_value_model_nothing_is_computed_for_one() -> None:
    """Each token once in an update, as before there were value models; twice with one."""
    credit = credit_of(ppo())
    with_values, _ = learner_and_values()
    once = tiny_learner(dtype=torch.float64).update(credit, grpo())
    twice = with_values.update(credit, ppo())
    assert twice.num_tokens == 2 * once.num_tokens
    assert twice.metrics.keys() & {"value_grad_norm", "loss/value_avg"} == {"value_grad_norm", "loss/value_avg"}
    assert once.metrics.keys() & {"value_grad_norm", "loss/value_avg"} == set()


def test_the_guard_counts_the_value_models_gradients() -> None:
    """With room for the gradients of the policy alone, not even one sequence can be learned from."""
    credit = credit_of(ppo())
    cost = LearnCost(kept_per_token=10, prefix_per_token=0, workspace_per_token=0, head_chunk=0)
    for with_room_for_both in (True, False):
        learner, values = learner_and_values()
        tensors = [*learner.adapter.named_tensors().values()]
        tensors += [*values.named_tensors().values()] if with_room_for_both else []
        budget = sum(tensor.nbytes for tensor in tensors) + 1000
        learner._plan = replace(learner._plan, cost=cost)
        learner._guard = Guard(budget_bytes=budget, resident=lambda: 0, available=lambda: float("inf"))
        if with_room_for_both:
            learner.update(credit, ppo())
            continue
        with pytest.raises(UserError, match="a micro-batch of one sequence"):
            learner.update(credit, ppo())
