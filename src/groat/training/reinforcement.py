"""Reinforcement learning of a run: step by step, recorded, checked and evaluated."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from groat.config.tree import RunConfig
from groat.tasks.reflection import ReflectionCounter, reflection_metrics
from groat.tasks.task import Task
from groat.tracking.store import RunStore
from groat.training.checks import check_logprob_difference, logprob_metrics
from groat.training.curriculum import Curriculum
from groat.training.entropy_control import entropy_control
from groat.training.rollout_rows import rollout_rows
from groat.training.step import StepResult, step_problems, step_seeds, step_spares, train_step
from groat.training.under_way import RunUnderWay
from groat.types import Problem, UserError

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called after every step with its number and its figures; it may raise Stopped to end the run there, saved."""


class Reinforcement:
    """Takes a run from step 0 to its last one."""

    def __init__(self, run: RunUnderWay, on_step: OnStep) -> None:
        """UserError where the task has no rows for the curriculum that is asked for."""
        config = run.config
        self._run = run
        self._on_step = on_step
        self._curriculum = _curriculum(config, run.built.task)
        self._reflections = ReflectionCounter(config.reflection.phrases) if config.reflection.enabled else None
        self._entropy_control = entropy_control(config)

    def train(self) -> None:
        """Evaluate, then step until all steps are done or the user asks to stop."""
        run, config = self._run, self._run.config
        if run.step < 0:
            return
        self._rehearse()
        run.evaluate_if_due()
        if run.step < config.training.max_steps:
            # A run that is extended is no longer finished.
            run.folder.summary_path.unlink(missing_ok=True)
            run.console.start_run(config.training.max_steps, run.step + 1)
        while run.step < config.training.max_steps and not run.phases.stop_requested:
            self._one_step()
            if run.step % config.training.save_steps == 0 or run.step == config.training.max_steps:
                run.save()
            run.evaluate_if_due()

    def recall(self) -> None:
        """What the curriculum and the entropy's coefficient have learned is counted again from the record."""
        run = self._run
        with RunStore.read(run.folder.store_path) as reader:
            if self._curriculum is not None:
                for step in range(1, run.step + 1):
                    self._curriculum.learn(reader.rollouts(step))
            if self._entropy_control is not None:
                self._entropy_control.learn(value for _, value in reader.metrics("entropy"))

    def _rehearse(self) -> None:
        """With a budget to keep, meet the largest micro-batch now rather than at step 120."""
        run = self._run
        if run.config.memory.budget is None or run.step >= run.config.training.max_steps:
            return
        work = run.built.work
        with run.phases.phase("rehearse"):
            run.learner.rehearse(work.prompt, work.completion)
        run.tell_interventions()

    def _one_step(self) -> None:
        run, config, step = self._run, self._run.config, self._run.step + 1
        problems = self._problems(step)
        seeds = step_seeds(config.seed, step, len(problems))
        before = dict(run.phases.seconds)
        started = time.perf_counter()
        spares = partial(step_spares, run.built.task.train, config.seed, step)
        parts, control = run.built.parts, self._entropy_control
        if control is not None:
            parts = replace(parts, algorithm=control.applied(parts.algorithm))
        result = train_step(parts, problems, seeds, run.learner.adapter, run.phases, spares)
        seconds = time.perf_counter() - started
        run.train_seconds += seconds
        metrics = {**result.metrics, **result.update.metrics}
        metrics |= logprob_metrics(result.update.logprob_differences)
        if self._reflections is not None:
            texts = [completion.text for group in result.groups for completion in group.completions]
            metrics |= reflection_metrics(self._reflections, texts)
        if control is not None:
            metrics["entropy_coef"] = control.weight
            control.learn([metrics["entropy"]] if "entropy" in metrics else [])
        timings = self._timings(result, seconds, before)
        rows = rollout_rows(result)
        run.store.record_step(step, metrics, timings, rows)
        if self._curriculum is not None:
            self._curriculum.learn(rows)
        run.step = step
        run.console.step(step, metrics, timings)
        run.tell_interventions()
        self._check(result, metrics)
        run.bridges.log(step, {**metrics, **timings})
        self._on_step(step, {**metrics, **timings})

    def _problems(self, step: int) -> list[Problem]:
        config = self._run.config
        if self._curriculum is not None:
            return self._curriculum.problems(step, config.prompts_per_step)
        return step_problems(self._run.built.task.train, config.seed, step, config.prompts_per_step)

    def _check(self, result: StepResult, metrics: Mapping[str, float]) -> None:
        run = self._run
        largest = metrics.get("sampling/sampling_logp_difference/max", 0.0)
        warning = check_logprob_difference(largest, run.config.checks.logprob_difference)
        if warning:
            run.event("log-probs", warning)
        run.check_finite(result.update)

    def _timings(self, result: StepResult, seconds: float, before: Mapping[str, float]) -> dict[str, float]:
        spent = defaultdict(
            float, {name: value - before.get(name, 0.0) for name, value in self._run.phases.seconds.items()}
        )
        drawn = sum(completion.num_drawn for group in result.groups for completion in group.completions)
        learn_seconds = spent["score"] + spent["learn"]
        return {
            "step_time": seconds,
            "sample_seconds": spent["sample"],
            "reward_seconds": spent["reward"],
            "learn_seconds": learn_seconds,
            "sample_tokens_per_second": drawn / max(spent["sample"], 1e-9),
            "learn_tokens_per_second": result.update.num_tokens / max(learn_seconds, 1e-9),
            **self._run.memory_timings(),
        }


def _curriculum(config: RunConfig, task: Task) -> Curriculum | None:
    if not config.rollouts.curriculum:
        return None
    if not isinstance(task.train, tuple):
        raise UserError(
            f"rollouts.curriculum needs rows that come back, and task {task.name} never gives the same problem twice, "
            "or gives its rows in a fixed order: take rollouts.curriculum out"
        )
    return Curriculum(task.train, config.seed)
