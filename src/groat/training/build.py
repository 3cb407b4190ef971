"""From a RunConfig to the parts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from groat.algorithms.registry import build_algorithm
from groat.config.tree import LoraConfig, RunConfig
from groat.learning.critic import Critic
from groat.learning.learner import Learner, LearnerPlan
from groat.memory.guard import Guard
from groat.memory.plan import MemoryPlan, budget_bytes
from groat.memory.workload import Workload
from groat.model.decoder import Decoder
from groat.model.load import LoadedModel, load_model
from groat.model.lora import new_adapter
from groat.model.tokenizer import Tokenizer
from groat.model.value_model import new_value_model
from groat.quantization.store import dynamic_store
from groat.sampling.base import Sampler, SamplingParams
from groat.sampling.native.sampler import NativeSampler
from groat.tasks.environments import Environments
from groat.tasks.overlong import soft_overlong
from groat.tasks.rewards import Grader, RewardFunction
from groat.tasks.task import Task, build_task
from groat.training.decide import Decision, decide_quietly
from groat.training.dialogues import DialogueSampler
from groat.training.prompts import encode
from groat.training.step import Parts
from groat.training.workload import num_bytes
from groat.types import Problem, Prompt, UserError

_TEMPLATE_BYTES = 1000
"""More than a chat template adds with a system turn of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """Everything a run works with."""

    model: LoadedModel
    decoder: Decoder
    task: Task
    held_out: tuple[Prompt, ...]
    parts: Parts
    decision: Decision
    guard: Guard
    num_trained: int

    def close(self) -> None:
        """Gives back what rewards and environments hold."""
        self.parts.grader.close()
        if self.task.environments is not None:
            self.task.environments.close()

    @property
    def plan(self) -> MemoryPlan:
        return self.decision.plan

    @property
    def work(self) -> Workload:
        return self.decision.work


def build(config: RunConfig, task: Task | None = None, decision: Decision | None = None) -> Built:
    """Make the task, load the model as was decided, and put the parts together; nothing is trained yet."""
    task = build_task(config.task, config.seed) if task is None else task
    decision = decide_quietly(config, task) if decision is None else decision
    plan, model = decision.plan, _load(config, decision)
    guard = Guard(budget_bytes=budget_bytes(config) - decision.work.worker_bytes)
    held_out = _held_out(task, config)
    environments = (
        None if task.environments is None else task.environments.for_template(model.tokenizer.template_source)
    )
    looked_at = (*task.train, *held_out) if isinstance(task.train, tuple) else held_out
    _check_lengths(looked_at, model, config, environments)
    decoder = Decoder(model.spec, model.weights)
    generator = torch.Generator().manual_seed(config.seed)
    adapter = new_adapter(model.spec, config.lora, generator)
    critic = _critic(config, decoder, generator)
    rewards = _rewards(task, config)
    weights = {reward.name: reward.weight for reward in rewards}
    algorithm = build_algorithm(config.algorithm, config.sampling.max_completion_length, weights)
    learner = Learner(
        decoder,
        adapter,
        learner_plan(plan),
        config.training,
        temperature=config.sampling.temperature,
        num_updates=config.training.max_steps * config.algorithm.num_iterations,
        guard=guard,
        critic=critic,
    )
    parts = Parts(
        encode=lambda problems: encode(problems, model.tokenizer, environments),
        sampler=_sampler(decoder, model.tokenizer, plan, guard, environments),
        sampling=SamplingParams.from_config(config.sampling),
        grader=Grader(rewards, config.task.reward_timeout_seconds),
        algorithm=algorithm,
        learner=learner,
        max_refills=config.rollouts.max_refills,
        num_kept=config.rollouts.num_kept,
    )
    return Built(
        model=model,
        decoder=decoder,
        task=task,
        held_out=tuple(encode(held_out, model.tokenizer, environments)),
        parts=parts,
        decision=decision,
        guard=guard,
        num_trained=learner.num_trained,
    )


def _sampler(
    decoder: Decoder, tokenizer: Tokenizer, plan: MemoryPlan, guard: Guard, environments: Environments | None
) -> Sampler:
    way = plan.way
    sampler = NativeSampler(
        decoder, tokenizer, max_concurrent=way.max_concurrent, prefill_tokens=way.prefill_tokens, guard=guard
    )
    return sampler if environments is None else DialogueSampler(sampler, tokenizer, environments)


def learner_plan(plan: MemoryPlan) -> LearnerPlan:
    """The learner's part of the plan."""
    return LearnerPlan(
        microbatch_tokens=plan.way.microbatch_tokens,
        head_chunk_tokens=plan.way.head_chunk_tokens,
        recompute=plan.way.recompute,
        cost=plan.learn_cost,
    )


def _critic(config: RunConfig, decoder: Decoder, generator: torch.Generator) -> Critic | None:
    """The value model, where the algorithm has one; its adapter is scaled as the policy's."""
    options = config.algorithm.value_model
    if options is None:
        return None
    lora = LoraConfig(r=options.r, lora_alpha=options.r * config.lora.lora_alpha / config.lora.r)
    model = new_value_model(decoder.spec, lora, generator)
    return Critic(decoder, model, config.training, learning_rate=options.learning_rate)


def _rewards(task: Task, config: RunConfig) -> tuple[RewardFunction, ...]:
    """The task's, and the penalty for length."""
    if not config.task.overlong_buffer:
        return task.rewards
    return (*task.rewards, soft_overlong(config.sampling.max_completion_length, config.task.overlong_buffer))


def _load(config: RunConfig, decision: Decision) -> LoadedModel:
    storage, sensitivities = decision.plan.storage, decision.sensitivities
    store = None if sensitivities is None else dynamic_store(storage, sensitivities)
    return load_model(config.model, storage, decision.folder, decision.tokenizer, store)


def _held_out(task: Task, config: RunConfig) -> Sequence[Problem]:
    held_out = task.held_out[: config.evaluation.num_problems]
    if config.evaluation.num_problems and not held_out:
        raise UserError(
            f"task {task.name} has no held-out problems to evaluate on: give task.eval_name a file, raise "
            "task.eval_fraction, or turn evaluation off with evaluation.num_problems 0"
        )
    return held_out


def _check_lengths(
    problems: Sequence[Problem], model: LoadedModel, config: RunConfig, environments: Environments | None
) -> None:
    """Every prompt must leave room for a whole completion: better told now than at the step that draws it."""
    room = model.spec.max_context - config.sampling.max_completion_length
    # A token stands for at least a byte, so most prompts need not be encoded to know that they fit.
    doubtful = [problem for problem in problems if num_bytes(problem) > room - _TEMPLATE_BYTES]
    encoded = encode(doubtful, model.tokenizer, environments)
    too_long = [prompt for prompt in encoded if len(prompt.token_ids) > room]
    if too_long:
        longest = max(too_long, key=lambda prompt: len(prompt.token_ids))
        raise UserError(
            f"{len(too_long)} of {len(problems)} prompts are too long: the context of {model.spec.max_context} tokens "
            f"less sampling.max_completion_length {config.sampling.max_completion_length} leaves {room}, and the "
            f"longest (problem {longest.problem.id}) has {len(longest.token_ids)}. Leave these rows out, shorten them, "
            "or lower sampling.max_completion_length"
        )
