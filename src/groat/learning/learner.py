"""The learner: log-probs of what was sampled, gradients, and the next adapter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from groat.algorithms.base import Algorithm, Credit, Forward, Loss, Needs, join_metrics
from groat.batching import MicroBatch, pack
from groat.config.tree import TrainingConfig
from groat.learning.logprobs import chunked_logprobs
from groat.learning.optimizer import build_optimizer, learning_rate
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
    ) -> None:
        self._guard = Guard() if guard is None else guard
        self._decoder = decoder
        self._adapter = adapter
        self._plan = plan
        self._config = config
        self._temperature = temperature
        self._num_updates = num_updates
        self._parameters = list(adapter.named_tensors().values())
        self._optimizer = build_optimizer(self._parameters, config)
        self.reference: Adapter | None = None
        """The policy that reference log-probs are those of; None: the base, with no adapter."""

    @property
    def adapter(self) -> Adapter:
        return self._adapter

    def score(self, groups: Sequence[Group], needs: Needs, progress: Progress = lambda _: None) -> list[Group]:
        """Fill in what an algorithm asks for: log-probs, `old` under the adapter and `reference` under `reference`, and
        entropies under the adapter."""
        wanted = {"old_logprobs": needs.old_logprobs, "entropies": needs.entropies}
        if names := [name for name, is_wanted in wanted.items() if is_wanted]:
            groups = self._scored(groups, names, self._adapter, progress)
        if needs.reference_logprobs:
            groups = self._scored(groups, ["reference_logprobs"], self.reference, progress)
        return list(groups)

    def update(self, credit: Credit, algorithm: Algorithm, progress: Progress = lambda _: None) -> Update:
        """Take `algorithm.num_iterations` optimizer steps on these samples."""
        updates: list[Update] = []
        for _ in range(algorithm.num_iterations):
            updates.append(self._step(credit, algorithm, progress))
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
        """Everything `restore` needs, by name: adapter tensors and both AdamW moments. They are not copies: the next
        update changes them."""
        tensors = {f"adapter.{name}": tensor.detach() for name, tensor in self._adapter.named_tensors().items()}
        for name, parameter in self._adapter.named_tensors().items():
            for moment, value in self._optimizer.state(parameter).items():
                tensors[f"optimizer.{name}.{moment}"] = value
        return tensors

    def restore(self, tensors: Mapping[str, torch.Tensor], version: int) -> None:
        """Go back to a state taken by `state` at policy version `version`; copies what it is given. ValueError for the
        state of another optimizer."""
        for name, parameter in self._adapter.named_tensors().items():
            parameter.data.copy_(tensors[f"adapter.{name}"])
            self._optimizer.restore(parameter, _under(f"optimizer.{name}.", tensors))
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
        self._optimizer.make_room()
        samples = _longest_samples(
            prompt_tokens, completion_tokens, self._plan.microbatch_tokens, self._decoder.spec.vocab_size
        )
        microbatch = next(self._fitting(samples))
        torch.autograd.backward(self._forward(microbatch, self._adapter).logprobs_N.sum())
        self._optimizer.forget_gradients()

    def _fitting(self, samples: Sequence[Sample]) -> Iterator[MicroBatch]:
        """Micro-batches, the largest first; cut smaller on the way if memory runs short."""
        waiting = _largest_first(samples, self.microbatch_tokens)
        while waiting:
            microbatch, *rest = waiting
            needed = self._bytes_needed(microbatch)
            if needed <= self._guard.room():
                yield microbatch
                waiting = rest
                continue
            if microbatch.num_bundles == 1:
                what = "one sequence" if len(microbatch.samples) == 1 else "sequences with one joint loss"
                size = f"{len(microbatch.token_ids_T)} tokens"
                raise self._guard.refuse(f"a micro-batch of {what} ({size})", needed)
            self.microbatch_tokens = len(microbatch.token_ids_T) // 2
            self._guard.intervene(f"micro-batches cut down to {self.microbatch_tokens} tokens")
            samples = [samples[index] for left in waiting for index in left.samples]
            waiting = _largest_first(samples, self.microbatch_tokens)

    def _bytes_needed(self, microbatch: MicroBatch) -> float:
        cost = self._plan.cost
        if cost is None:
            return 0
        gradients = sum(parameter.nbytes for parameter in self._parameters if parameter.grad is None)
        return gradients + cost.of(len(microbatch.token_ids_T))

    def _step(self, credit: Credit, algorithm: Algorithm, progress: Progress) -> Update:
        rate = learning_rate(self._config, self._adapter.version, self._num_updates)
        self._optimizer.forget_gradients()
        losses: list[Loss] = []
        differences: list[torch.Tensor] = []
        num_tokens = 0
        for microbatch in self._fitting(credit.samples):
            forward = self._forward(microbatch, self._adapter, algorithm.needs)
            loss = algorithm.loss(forward, microbatch.targets, credit.totals)
            torch.autograd.backward(loss.total)
            losses.append(replace(loss, total=loss.total.detach()))
            differences.append(forward.logprobs_N.detach() - microbatch.policy_logprobs_N)
            num_tokens += len(microbatch.token_ids_T)
            progress(len(microbatch.token_ids_T))
        metrics = {"loss": math.fsum(loss.total.item() for loss in losses), "learning_rate": rate}
        metrics |= join_metrics(losses) | {"grad_norm": self._clipped_gradient_norm()}
        skipped = next((name for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])), None)
        if losses and not skipped:
            self._optimizer.step(rate)
        self._optimizer.forget_gradients()
        self._adapter = replace(self._adapter, version=self._adapter.version + 1)
        return Update(
            adapter=self._adapter,
            metrics=metrics,
            skipped=skipped and f"{skipped} is {metrics[skipped]}",
            num_tokens=num_tokens,
            logprob_differences=tuple(torch.cat(differences).tolist()) if differences else (),
        )

    def _clipped_gradient_norm(self) -> float:
        if all(parameter.grad is None for parameter in self._parameters):
            return 0.0
        limit = self._config.max_grad_norm or math.inf
        return torch.nn.utils.clip_grad_norm_(self._parameters, limit).item()

    def _forward(self, microbatch: MicroBatch, adapter: Adapter | None, needs: Needs = _NOTHING) -> Forward:
        hidden_TH = self._decoder.hidden_of_trees(
            microbatch.token_ids_T,
            microbatch.positions_T,
            microbatch.nodes,
            adapter,
            recompute=self._plan.recompute if torch.is_grad_enabled() else None,
        )
        is_greedy_N = torch.empty(len(microbatch.predictor_N), dtype=torch.bool) if needs.greedy else None
        logprobs_N, entropy_N = chunked_logprobs(
            self._decoder.final_norm(hidden_TH.index_select(0, microbatch.predictor_N)),
            self._decoder.weights.head_VH,
            microbatch.targets.token_ids_N,
            self._temperature,
            self._plan.head_chunk_tokens,
            entropy_gradient=needs.entropy_gradient,
            is_greedy_N=is_greedy_N,
        )
        return Forward(logprobs_N=logprobs_N, entropy_N=entropy_N, is_greedy_N=is_greedy_N)

    @torch.no_grad()
    def _scored(
        self, groups: Sequence[Group], names: Sequence[str], adapter: Adapter | None, progress: Progress
    ) -> list[Group]:
        samples = [
            Sample(prompt=group.prompt, completion=completion, advantages=(0.0,) * completion.num_drawn)
            for group in groups
            for completion in group.completions
        ]
        found: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
        for microbatch in pack(samples, self._plan.microbatch_tokens):
            forward = self._forward(microbatch, adapter)
            for name in names:
                scores_N = forward.entropy_N if name == "entropies" else forward.logprobs_N
                assert scores_N is not None
                per_sample = scores_N.split(microbatch.targets.lengths_S.long().tolist())
                for index, part in zip(microbatch.samples, per_sample, strict=True):
                    found[index][name] = tuple(part.tolist())
            progress(len(microbatch.token_ids_T))
        in_order = iter([found[index] for index in range(len(samples))])

        def with_scores(completion: Completion) -> Completion:
            return replace(completion, **next(in_order))

        return [replace(group, completions=tuple(map(with_scores, group.completions))) for group in groups]


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _largest_first(samples: Sequence[Sample], microbatch_tokens: int) -> list[MicroBatch]:
    return sorted(pack(samples, microbatch_tokens), key=lambda one: len(one.token_ids_T), reverse=True)


def _longest_samples(prompt_tokens: int, completion_tokens: int, tokens: int, vocab_size: int) -> list[Sample]:
    """Made-up samples that fill a micro-batch: of one prompt, all as long as can be."""
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

    count = max(1, (tokens - prompt_tokens) // completion_tokens)
    return [sample(number) for number in range(count)]
