"""The learner: log-probs of what was sampled, gradients, and the next adapter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from groat.algorithms.base import ActorCritic, Algorithm, Credit, Forward, Loss, Needs, join_metrics
from groat.batching import MicroBatch, pack
from groat.config.tree import TrainingConfig
from groat.learning.critic import Critic
from groat.learning.logprobs import chunked_logprobs
from groat.learning.optimizer import learning_rate
from groat.learning.trained_weights import TrainedWeights
from groat.learning.trunk import Trunk
from groat.memory.guard import Guard
from groat.memory.phases import LearnCost
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.recompute import Recompute
from groat.types import Completion, FinishReason, Group, Problem, Prompt, Sample

_NOTHING = Needs()
Progress = Callable[[int], None]
"""Called with the number of tokens a micro-batch has finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPlan:
    """How the learner spends memory; decided by the memory plan."""

    microbatch_tokens: int
    head_chunk_tokens: int
    recompute: Recompute | None
    cost: LearnCost | None = None
    """What a micro-batch takes, for the guard; None: nobody asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one step's updates did."""

    adapter: Adapter
    metrics: Mapping[str, float]
    skipped: str | None = None
    """Why the weights were left as they are: a loss or a gradient that is not finite."""
    num_tokens: int = 0
    """Tokens computed, shared ones once, summed over iterations."""
    logprob_differences: tuple[float, ...] = field(default=(), repr=False)
    """Per trained token, the learner's log-prob minus the sampler's policy log-prob before the first update."""


class Learner:
    """Owns the trained weights and the optimizer's state; changed only by `update` and `restore`."""

    def __init__(
        self,
        decoder: Decoder,
        adapter: Adapter,
        plan: LearnerPlan,
        config: TrainingConfig,
        *,
        temperature: float,
        num_updates: int,
        guard: Guard | None = None,
        critic: Critic | None = None,
    ) -> None:
        self._guard = Guard() if guard is None else guard
        self._decoder = decoder
        self._adapter = adapter
        self._plan = plan
        self._config = config
        self._temperature = temperature
        self._num_updates = num_updates
        self.reference: Adapter | None = None
        """The policy that reference log-probs are those of; None: the base, with no adapter."""
        self._critic = critic
        self._policy = TrainedWeights(adapter.named_tensors(), config, "adapter")
        self._trained = [self._policy] if critic is None else [self._policy, critic.weights]

    @property
    def adapter(self) -> Adapter:
        return self._adapter

    @property
    def num_trained(self) -> int:
        """Numbers that are trained, a value model's included."""
        return sum(weights.size for weights in self._trained)

    def score(self, groups: Sequence[Group], needs: Needs, progress: Progress = lambda _: None) -> list[Group]:
        """Fill in what an algorithm asks for: log-probs, `old` under the adapter and `reference` under `reference`,
        entropies under the adapter, and values."""
        wanted = {"old_logprobs": needs.old_logprobs, "entropies": needs.entropies}
        if names := [name for name, is_wanted in wanted.items() if is_wanted]:
            groups = self._scored(groups, self._trunk(self._adapter), partial(self._policy_scores, names), progress)
        if needs.reference_logprobs:
            scores = partial(self._policy_scores, ["reference_logprobs"])
            groups = self._scored(groups, self._trunk(self.reference), scores, progress)
        if needs.values:
            assert self._critic is not None, "an algorithm with values needs a value model"
            critic = self._critic
            groups = self._scored(
                groups,
                critic.trunk(None),
                lambda _, predictors_NH: {"values": critic.values(predictors_NH)},
                progress,
            )
        return list(groups)

    def update(self, credit: Credit, algorithm: Algorithm, progress: Progress = lambda _: None) -> Update:
        """Take an optimizer step on each mini-batch, or `algorithm.num_iterations` of them on all samples."""
        updates: list[Update] = []
        for batch in credit.mini_batches or (credit,) * algorithm.num_iterations:
            updates.append(self._step(batch, algorithm, progress))
            if updates[-1].skipped:
                break
        names = updates[-1].metrics.keys()
        return Update(
            adapter=self._adapter,
            metrics={name: math.fsum(u.metrics[name] for u in updates) / len(updates) for name in names},
            skipped=updates[-1].skipped,
            num_tokens=sum(update.num_tokens for update in updates),
            logprob_differences=updates[0].logprob_differences,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Everything `restore` needs, by name: trained tensors (`adapter.`, `value.`) and both AdamW moments
        (`optimizer.`). They are not copies: the next update changes them."""
        return {name: tensor for weights in self._trained for name, tensor in weights.state().items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        """Go back to a state taken by `state` at policy version `version`; copies what it is given. ValueError for the
        state of another optimizer."""
        for weights in self._trained:
            weights.restore(tensors)
        self._adapter = replace(self._adapter, version=version)

    @property
    def microbatch_tokens(self) -> int:
        """The most tokens of a micro-batch: the plan's, unless the guard had to make it smaller."""
        return self._plan.microbatch_tokens

    @microbatch_tokens.setter
    def microbatch_tokens(self, tokens: int) -> None:
        self._plan = replace(self._plan, microbatch_tokens=tokens)

    def rehearse(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Forward and backward on the largest micro-batch that the plan allows: the first step then meets what any
        later one would. Changes nothing, but that the guard may make later micro-batches smaller."""
        for weights in self._trained:
            weights.make_room()
        samples = _longest_samples(
            prompt_tokens, completion_tokens, self._plan.microbatch_tokens, self._decoder.spec.vocab_size
        )
        with self._trunk(self._adapter) as trunk:
            microbatch = next(self._fitting(samples, trunk))
            forward = self._forward(microbatch, trunk.predictors(microbatch))
            torch.autograd.backward(forward.logprobs_N.sum())
        self._forget_gradients()

    def _trunk(self, adapter: Adapter | None) -> Trunk:
        return Trunk(self._decoder, adapter, self._plan.recompute)

    def _fitting(self, samples: Sequence[Sample], trunk: Trunk) -> Iterator[MicroBatch]:
        """Micro-batches, the largest first but those with one prefix together; cut smaller on the way if memory runs
        short."""
        waiting = _largest_first(samples, self.microbatch_tokens)
        while waiting:
            microbatch, *rest = waiting
            needed = self._bytes_needed(microbatch, trunk)
            if needed <= self._guard.room():
                yield microbatch
                waiting = rest
                continue
            if microbatch.num_bundles == 1 and not microbatch.prefix_ids:
                what = "one sequence" if len(microbatch.samples) == 1 else "sequences with one joint loss"
                size = f"{microbatch.num_tokens} tokens"
                raise self._guard.refuse(f"a micro-batch of {what} ({size})", needed)
            # One sample alone takes least without a prefix, which a micro-batch no larger than that cannot have.
            is_one = microbatch.num_bundles == 1
            self.microbatch_tokens = len(microbatch.prefix_ids) if is_one else microbatch.num_tokens // 2
            self._guard.intervene(f"micro-batches cut down to {self.microbatch_tokens} tokens")
            samples = [samples[index] for left in waiting for index in left.samples]
            waiting = _largest_first(samples, self.microbatch_tokens)

    def _bytes_needed(self, microbatch: MicroBatch, trunk: Trunk) -> float:
        cost = self._plan.cost
        if cost is None:
            return 0
        gradients = sum(weights.missing_gradient_bytes for weights in self._trained)
        tokens = trunk.new_tokens(microbatch)
        return gradients + cost.of(tokens, num_shared=tokens - len(microbatch.token_ids_T))

    def _step(self, credit: Credit, algorithm: Algorithm, progress: Progress) -> Update:
        rate = learning_rate(self._config, self._adapter.version, self._num_updates)
        self._forget_gradients()
        differences: list[torch.Tensor] = []

        def policy_loss(microbatch: MicroBatch, predictors_NH: torch.Tensor) -> Loss:
            forward = self._forward(microbatch, predictors_NH, algorithm.needs)
            differences.append(forward.logprobs_N.detach() - microbatch.policy_logprobs_N)
            return algorithm.loss(forward, microbatch.targets, credit.totals)

        losses, num_tokens = self._backward(credit.samples, self._trunk(self._adapter), policy_loss, progress)
        if self._critic is not None:
            assert isinstance(algorithm, ActorCritic)
            value_loss = partial(self._value_loss, self._critic, algorithm, credit)
            trunk = self._critic.trunk(self._plan.recompute)
            losses_of_values, more_tokens = self._backward(credit.samples, trunk, value_loss, progress)
            losses, num_tokens = [*losses, *losses_of_values], num_tokens + more_tokens
        metrics = {"loss": math.fsum(loss.total.item() for loss in losses), "learning_rate": rate}
        norms = self._clipped_gradient_norms()
        metrics |= join_metrics(losses) | norms
        skipped = next((name for name in ("loss", *norms) if not math.isfinite(metrics[name])), None)
        if losses and not skipped:
            self._move(rate)
        self._forget_gradients()
        self._adapter = replace(self._adapter, version=self._adapter.version + 1)
        return Update(
            adapter=self._adapter,
            metrics=metrics,
            skipped=skipped and f"{skipped} is {metrics[skipped]}",
            num_tokens=num_tokens,
            logprob_differences=tuple(torch.cat(differences).tolist()) if differences else (),
        )

    def _backward(
        self,
        samples: Sequence[Sample],
        trunk: Trunk,
        loss_of: Callable[[MicroBatch, torch.Tensor], Loss],
        progress: Progress,
    ) -> tuple[list[Loss], int]:
        """Add to the gradients, a micro-batch after the other; the losses without theirs, and how many tokens were
        computed. `loss_of` is given what the trunk makes of a micro-batch."""
        losses: list[Loss] = []
        with trunk:
            for microbatch in self._fitting(samples, trunk):
                loss = loss_of(microbatch, trunk.predictors(microbatch))
                torch.autograd.backward(loss.total)
                losses.append(replace(loss, total=loss.total.detach()))
                progress(len(microbatch.token_ids_T))
        return losses, trunk.num_tokens

    def _value_loss(
        self,
        critic: Critic,
        algorithm: ActorCritic,
        credit: Credit,
        microbatch: MicroBatch,
        predictors_NH: torch.Tensor,
    ) -> Loss:
        return algorithm.value_loss(critic.values(predictors_NH), microbatch.targets, credit.totals)

    def _clipped_gradient_norms(self) -> dict[str, float]:
        norms = {"grad_norm": self._policy.clip_gradients()}
        return norms if self._critic is None else norms | {"value_grad_norm": self._critic.weights.clip_gradients()}

    def _move(self, rate: float) -> None:
        self._policy.step(rate)
        if self._critic is not None:
            self._critic.weights.step(self._critic.rate_factor * rate)

    def _forget_gradients(self) -> None:
        for weights in self._trained:
            weights.forget_gradients()

    def _forward(self, microbatch: MicroBatch, predictors_NH: torch.Tensor, needs: Needs = _NOTHING) -> Forward:
        is_greedy_N = torch.empty(len(microbatch.predictor_N), dtype=torch.bool) if needs.greedy else None
        logprobs_N, entropy_N = chunked_logprobs(
            predictors_NH,
            self._decoder.weights.head_VH,
            microbatch.targets.token_ids_N,
            self._temperature,
            self._plan.head_chunk_tokens,
            entropy_gradient=needs.entropy_gradient,
            is_greedy_N=is_greedy_N,
        )
        return Forward(logprobs_N=logprobs_N, entropy_N=entropy_N, is_greedy_N=is_greedy_N)

    def _policy_scores(
        self, names: Sequence[str], microbatch: MicroBatch, predictors_NH: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        forward = self._forward(microbatch, predictors_NH)
        assert forward.entropy_N is not None
        return {name: forward.entropy_N if name == "entropies" else forward.logprobs_N for name in names}

    @torch.no_grad()
    def _scored(
        self,
        groups: Sequence[Group],
        trunk: Trunk,
        scores: Callable[[MicroBatch, torch.Tensor], Mapping[str, torch.Tensor]],
        progress: Progress,
    ) -> list[Group]:
        """The completions with `scores` of their tokens [N], by the names of their fields; of each micro-batch they are
        found from what the trunk makes of it."""
        samples = [
            Sample(prompt=group.prompt, completion=completion, advantages=(0.0,) * completion.num_drawn)
            for group in groups
            for completion in group.completions
        ]
        found: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
        for microbatch in pack(samples, self._plan.microbatch_tokens):
            for name, scores_N in scores(microbatch, trunk.predictors(microbatch)).items():
                per_sample = scores_N.split(microbatch.targets.lengths_S.long().tolist())
                for index, part in zip(microbatch.samples, per_sample, strict=True):
                    found[index][name] = tuple(part.tolist())
            progress(len(microbatch.token_ids_T))
        in_order = iter([found[index] for index in range(len(samples))])

        def with_scores(completion: Completion) -> Completion:
            return replace(completion, **next(in_order))

        return [replace(group, completions=tuple(map(with_scores, group.completions))) for group in groups]


def _largest_first(samples: Sequence[Sample], microbatch_tokens: int) -> list[MicroBatch]:
    """Those that share a prefix stay together, in the place of their largest."""
    families: defaultdict[tuple[int, ...], list[MicroBatch]] = defaultdict(list)
    for microbatch in sorted(pack(samples, microbatch_tokens), key=lambda one: one.num_tokens, reverse=True):
        families[microbatch.prefix_ids].append(microbatch)
    return [microbatch for family in families.values() for microbatch in family]


def _longest_samples(prompt_tokens: int, completion_tokens: int, tokens: int, vocab_size: int) -> list[Sample]:
    """Made-up samples that fill two micro-batches: of one prompt, all as long as can be."""
    prompt = Prompt(
        problem=Problem(id="rehearsal", prompt=""), token_ids=tuple(i % vocab_size for i in range(prompt_tokens))
    )
    zeros = (0.0,) * completion_tokens

    def sample(number: int) -> Sample:
        completion = Completion(
            # No two begin alike, so that they share the prompt alone.
            token_ids=tuple((number + place) % vocab_size for place in range(completion_tokens)),
            sampler_logprobs=zeros,
            policy_logprobs=zeros,
            text="",
            finish_reason=FinishReason.LENGTH,
            policy_version=0,
        )
        return Sample(prompt=prompt, completion=completion, advantages=zeros)

    count = 2 * max(1, (tokens - prompt_tokens) // completion_tokens)
    return [sample(number) for number in range(count)]
