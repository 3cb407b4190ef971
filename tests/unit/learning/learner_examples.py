"""A learner on a tiny decoder, a step to train it on, and a look at the gradients it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tiny_decoders import NUM_TOKENS, completion_of, prompt_of, tiny_adapter, tiny_decoder, tiny_spec

from groat.algorithms.base import Algorithm, Credit
from groat.algorithms.grpo import GRPO
from groat.batching import Totals
from groat.config.tree import GRPOAlgorithmConfig, TrainingConfig
from groat.learning.critic import Critic
from groat.learning.learner import Learner, LearnerPlan, Update
from groat.memory.guard import Guard
from groat.memory.phases import LearnCost
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.recompute import Recompute
from groat.model.value_model import ValueModel
from groat.types import Completion, Group, Sample

TEMPERATURE = 0.8
SPEC = tiny_spec()


def grpo(**config: object) -> GRPO:
    return GRPO(GRPOAlgorithmConfig(**config), max_completion_length=16)  # type: ignore[arg-type]


def learner_of(
    decoder: Decoder,
    adapter: Adapter,
    *,
    microbatch_tokens: int = 10_000,
    head_chunk_tokens: int = 5,
    recompute: Recompute | None = None,
    num_updates: int = 10,
    value_model: ValueModel | None = None,
    value_learning_rate: float | None = None,
    **config: object,
) -> Learner:
    plan = LearnerPlan(microbatch_tokens=microbatch_tokens, head_chunk_tokens=head_chunk_tokens, recompute=recompute)
    training = TrainingConfig(**({"learning_rate": 1e-2, "lr_scheduler_type": "constant"} | config))  # type: ignore[arg-type]
    critic = None
    if value_model is not None:
        critic = Critic(decoder, value_model, training, learning_rate=value_learning_rate)
    return Learner(decoder, adapter, plan, training, temperature=TEMPERATURE, num_updates=num_updates, critic=critic)


def guarded_learner(cost: LearnCost, num_bytes: float, microbatch_tokens: int) -> tuple[Learner, Guard]:
    """One in float64, whose guard has so many bytes beside the gradients, which are not yet counted."""
    adapter = tiny_adapter(SPEC, dtype=torch.float64)
    gradients = sum(tensor.nbytes for tensor in adapter.named_tensors().values())
    guard = Guard(budget_bytes=gradients + num_bytes, resident=lambda: 0, available=lambda: float("inf"))
    plan = LearnerPlan(microbatch_tokens=microbatch_tokens, head_chunk_tokens=5, recompute=None, cost=cost)
    training = TrainingConfig(learning_rate=1e-2, lr_scheduler_type="constant")
    decoder = tiny_decoder(SPEC, dtype=torch.float64)
    return Learner(decoder, adapter, plan, training, temperature=TEMPERATURE, num_updates=10, guard=guard), guard


def tiny_value_model(dtype: torch.dtype = torch.float32, *, r: int = 2, seed: int = 5) -> ValueModel:
    """One that has been trained already."""
    generator = torch.Generator().manual_seed(seed)
    return ValueModel(
        adapter=tiny_adapter(SPEC, dtype=dtype, r=r, seed=seed),
        weight_H=torch.randn(SPEC.hidden_size, generator=generator).to(dtype).requires_grad_(),
        bias=torch.tensor(0.3, dtype=dtype, requires_grad=True),
    )


def tiny_learner(seed: int = 0, dtype: torch.dtype = torch.float32, **arguments: object) -> Learner:
    decoder, adapter = tiny_decoder(SPEC, dtype=dtype), tiny_adapter(SPEC, dtype=dtype, seed=seed)
    return learner_of(decoder, adapter, **arguments)  # type: ignore[arg-type]


def random_samples(seed: int = 0, num_prompts: int = 3, num_each: int = 4, *, scored: bool = True) -> list[Sample]:
    """Groups of answers to prompts with a common beginning, given in no order. Figures fit into fp32 exactly."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        count = int(torch.randint(low, high + 1, (), generator=generator))
        return tuple(torch.randint(NUM_TOKENS, (count,), generator=generator).tolist())

    def logprobs(count: int) -> tuple[float, ...]:
        return tuple((-3 + torch.randn(count, generator=generator)).tolist())

    def sample(prompt: tuple[int, ...]) -> Sample:
        completion = tokens(1, 12)
        count = len(completion)
        extra = {"old_logprobs": logprobs(count), "reference_logprobs": logprobs(count)} if scored else {}
        return Sample(
            prompt=prompt_of(prompt),
            completion=completion_of(completion, sampler_logprobs=logprobs(count), **extra),
            advantages=tuple(torch.randn(1, generator=generator).tolist()) * count,
        )

    prompts = [(1, 2, 3, 4, 5, *tokens(1, 6)) for _ in range(num_prompts - 1)] + [(6,)]
    return [sample(prompt) for _ in range(num_each) for prompt in prompts]


def credit_of(samples: list[Sample]) -> Credit:
    """As if two completions of 7 tokens had been left out."""
    totals = Totals(sequences=len(samples) + 2, tokens=sum(sample.num_tokens for sample in samples) + 14)
    return Credit(samples=tuple(samples), totals=totals, metrics={})


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What one update did."""

    update: Update
    gradients: dict[str, torch.Tensor]
    """Of the whole step, before clipping."""


def one_update(
    learner: Learner, credit: Credit, algorithm: Algorithm, others: dict[str, torch.Tensor] | None = None
) -> Taken:
    """Take one update, and catch the gradients on their way to the optimizer: the adapter's and `others`."""
    gradients: dict[str, torch.Tensor] = {}
    named = learner.adapter.named_tensors() | (others or {})

    def catch(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradients[name] = parameter.grad.clone()

    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: catch(name, p))
        for name, parameter in named.items()
    ]
    update = learner.update(credit, algorithm)
    for hook in hooks:
        hook.remove()
    assert gradients.keys() == named.keys()
    return Taken(update=update, gradients=gradients)


def groups_of(samples: list[Sample]) -> list[Group]:
    """The same completions by prompt, as the sampler returns them."""
    completions: dict[tuple[int, ...], list[Completion]] = {}
    for sample in samples:
        completions.setdefault(sample.prompt.token_ids, []).append(sample.completion)
    return [Group(prompt=prompt_of(prompt), completions=tuple(all_)) for prompt, all_ in completions.items()]


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy to compare with later: the learner's own tensors move on."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name
