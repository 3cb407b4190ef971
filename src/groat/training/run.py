"""A run: build the parts, evaluate, train step by step, evaluate again, and leave everything in one folder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from groat.config.load import read_yaml, to_yaml
from groat.config.sizes import parse_size
from groat.config.tree import RunConfig
from groat.kernels.native import kernels_in_use
from groat.learning.learner import Learner
from groat.memory.measure import gib, peak_bytes, resident_bytes
from groat.model.peft_files import save_peft
from groat.tasks.task import PYTHON_TASK, Task, build_task
from groat.tracking.before_after import paired_answers
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder, numbered_output_dir, write_atomically
from groat.tracking.lock import RunLock
from groat.tracking.rows import Evaluation
from groat.tracking.store import RunStore
from groat.training.build import Built, build
from groat.training.checkpoint import Checkpoint, Progress, newest_checkpoint, save_checkpoint
from groat.training.checks import check_logprob_difference, check_policy_canary, logprob_metrics
from groat.training.curriculum import Curriculum
from groat.training.decide import decide
from groat.training.evaluate import evaluate
from groat.training.phases import Phases, Stopped
from groat.training.rollout_rows import rollout_rows
from groat.training.step import StepResult, step_problems, step_seeds, step_spares, train_step
from groat.types import Problem, UserError

OnStep = Callable[[int, Mapping[str, float]], None]
"""Called after every step with its number and its figures; it may raise Stopped to end the run there, saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """How a run ended; written to summary.json."""

    finished: bool
    output_dir: str
    steps: int
    train_seconds: float
    """Sampling, rewards, learning and checkpoints; not loading, not evaluation."""
    peak_gib: float
    predicted_peak_gib: float
    budget_gib: float | None
    memory: Mapping[str, Mapping[str, float]]
    """Of this process, by phase of the plan: `predicted_gib` and `measured_gib`."""
    accuracy_before: Evaluation | None
    """avg@k at the sampling temperature."""
    accuracy_after: Evaluation | None
    greedy_before: Evaluation | None
    greedy_after: Evaluation | None


def train(
    config: RunConfig, console: Console, task: Task | None = None, on_step: OnStep = lambda _, __: None
) -> Summary:
    """Start a run in a new folder. `task` replaces the configured one (the Python API's datasets and functions)."""
    path = numbered_output_dir(config.output_dir, config.model.name, config.task.name)
    config = replace(config, output_dir=str(path))
    folder = RunFolder.create(path)
    with RunLock(folder.path):
        write_atomically(folder.config_path, to_yaml(config).encode())
        try:
            return _run(config, folder, console, task, on_step)
        except UserError:
            if not folder.store_path.exists():
                _clear_away(folder)
            raise


def resume(
    run_folder: Path,
    console: Console,
    max_steps: int | None = None,
    task: Task | None = None,
    on_step: OnStep = lambda _, __: None,
) -> Summary:
    """Go on with a run from its newest complete checkpoint, bit for bit as if it had never stopped."""
    folder = RunFolder.open(run_folder)
    with RunLock(folder.path):
        config = replace(read_yaml(folder.config_path), output_dir=str(run_folder))
        if max_steps is not None:
            config = replace(config, training=replace(config.training, max_steps=max_steps))
        return _run(config, folder, console, task, on_step)


def _run(config: RunConfig, folder: RunFolder, console: Console, task: Task | None, on_step: OnStep) -> Summary:
    phases = Phases(console)
    with phases.stopping_on_signals():
        task = build_task(config.task, config.seed) if task is None else task
        decision = decide(config, task, phases, folder, console.note)
        with phases.phase("load"):
            built = build(config, task, decision)
            # What `auto` has come to holds for the whole run, wherever it goes on.
            config = replace(config, model=replace(config.model, compute=built.model.compute))
        with RunStore(folder.store_path) as store:
            run = _Run(config, folder, console, phases, store, built, on_step)
            try:
                run.restore()
                with suppress(Stopped):
                    run.train()
                run.save()
                return run.close()
            except UserError as error:
                raise type(error)(run.last_words(error)) from error
            finally:
                built.parts.grader.close()


def _clear_away(folder: RunFolder) -> None:
    """Nothing was begun: leave the name free for the corrected recipe."""
    with suppress(OSError):
        folder.config_path.unlink(missing_ok=True)
        (folder.path / "run.lock").unlink()
        folder.checkpoints.rmdir()
        folder.path.rmdir()


class _Run:
    """A run under way: which step it is at, and what it has cost so far."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        console: Console,
        phases: Phases,
        store: RunStore,
        built: Built,
        on_step: OnStep,
    ) -> None:
        self._config = config
        self._folder = folder
        self._console = console
        self._phases = phases
        self._store = store
        self._built = built
        self._on_step = on_step
        self._learner: Learner = built.parts.learner
        self._train_seconds = 0.0
        self._earlier_peak = 0
        self._saved_step: int | None = None
        self._curriculum = _curriculum(config, built.task)
        self.step = 0

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one, and forget what came after it."""
        checkpoint = newest_checkpoint(self._folder.checkpoints, lambda words: self._event("checkpoint", words))
        if checkpoint is not None:
            progress = checkpoint.progress
            self._check_fits(checkpoint)
            self._restore_learner(checkpoint)
            if progress.microbatch_tokens is not None:
                self._learner.microbatch_tokens = min(progress.microbatch_tokens, self._learner.microbatch_tokens)
            self.step = self._saved_step = progress.step
            self._train_seconds, self._earlier_peak = progress.train_seconds, progress.peak_bytes
            self._console.note(f"Going on from the checkpoint of step {self.step}")
        self._adopt_config()
        self._store.forget_after(self.step)
        self._recall_curriculum()

    def train(self) -> None:
        """Evaluate, then step until all steps are done or the user asks to stop."""
        config = self._config
        self._announce()
        if self.step == 0 and config.checks.policy_canary:
            first = self._built.parts.encode([self._built.task.train[0]])[0]
            check_policy_canary(self._built.parts.sampler, first, self._learner.adapter, self._built.parts.sampling)
        self._rehearse()
        self._evaluate_if_due()
        if self.step < config.training.max_steps:
            # A run that is extended is no longer finished.
            self._folder.summary_path.unlink(missing_ok=True)
            self._console.start_run(config.training.max_steps, self.step + 1)
        while self.step < config.training.max_steps and not self._phases.stop_requested:
            self._one_step()
            if self.step % config.training.save_steps == 0 or self.step == config.training.max_steps:
                self.save()
            self._evaluate_if_due()

    def _recall_curriculum(self) -> None:
        if self._curriculum is not None and self.step:
            with RunStore.read(self._folder.store_path) as reader:
                for step in range(1, self.step + 1):
                    self._curriculum.learn(reader.rollouts(step))

    def _restore_learner(self, checkpoint: Checkpoint) -> None:
        step, version = checkpoint.progress.step, checkpoint.progress.policy_version
        try:
            self._learner.restore(checkpoint.tensors, version)
        except ValueError as error:
            raise UserError(
                f"the checkpoint of step {step} in {self._folder.checkpoints}: {error}. Put training.optim in "
                f"{self._folder.config_path} back to what it was"
            ) from error

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if self._saved_step == self.step or self.step == 0:
            return
        started = time.perf_counter()
        with self._phases.phase("save"):
            save_checkpoint(
                self._folder.checkpoints,
                Progress(
                    step=self.step,
                    policy_version=self._learner.adapter.version,
                    train_seconds=self._train_seconds,
                    peak_bytes=self._peak_bytes,
                    microbatch_tokens=self._learner.microbatch_tokens,
                ),
                self._learner.state(),
                self._config.training.save_total_limit,
                self._store.flush,
            )
        self._saved_step = self.step
        self._train_seconds += time.perf_counter() - started

    def close(self) -> Summary:
        """Leave adapter and summary behind, and show what changed."""
        config = self._config
        save_peft(self._learner.adapter, self._built.model.spec, self._built.model.name, self._folder.adapter)
        finished = self.step >= config.training.max_steps and (
            config.evaluation.num_problems == 0 or self._store_evaluation(self.step) is not None
        )
        average = f"avg@{config.evaluation.num_samples}"
        before = self._store_evaluation(0) or {}
        after = (self._store_evaluation(self.step) if finished else None) or {}
        summary = Summary(
            finished=finished,
            output_dir=str(self._folder.path),
            steps=self.step,
            train_seconds=round(self._train_seconds, 3),
            peak_gib=round(gib(self._peak_bytes), 3),
            predicted_peak_gib=round(gib(self._built.plan.peak_bytes), 3),
            budget_gib=_budget_gib(config),
            memory=self._memory(),
            accuracy_before=before.get(average),
            accuracy_after=after.get(average),
            greedy_before=before.get("greedy"),
            greedy_after=after.get("greedy"),
        )
        self._folder.write_summary(asdict(summary))
        self._show_end(summary, before, after)
        return summary

    def last_words(self, error: UserError) -> str:
        """Record the error and save what was trained, as far as the disk allows; returns what to tell the user."""
        words = str(error)
        # The first error is the one to put right, even where it keeps us from recording it.
        with suppress(UserError):
            self._store.record_event(self.step, "error", words)
        with suppress(UserError):
            self.save()
        go_on = f"go on from step {self._saved_step}" if self._saved_step else "go on"
        return f"{words.rstrip('.')}. Once that is put right, {go_on}: {_how_to_resume(self._config)}"

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        found = {name: one.shape for name, one in checkpoint.tensors.items() if not name.startswith("optimizer.")}
        if found != {name: tensor.shape for name, tensor in self._learner.state().items()}:
            raise UserError(
                f"the checkpoint of step {checkpoint.progress.step} in {self._folder.checkpoints} is of an adapter "
                f"with other sizes: put model.name, lora.r and algorithm in {self._folder.config_path} back to "
                "what they were"
            )

    def _adopt_config(self) -> None:
        """From here on this config is the run's own; another number of steps than before is checked and told."""
        before, now = read_yaml(self._folder.config_path).training, self._config.training
        if now.max_steps < self.step:
            raise UserError(
                f"training.max_steps {now.max_steps} lies behind this run, which has trained {self.step} steps: "
                f"ask for {self.step} or more"
            )
        if (
            self.step
            and now.max_steps != before.max_steps
            and (now.lr_scheduler_type, now.warmup_ratio) != ("constant", 0)
        ):
            self._event(
                "learning rate",
                f"its schedule now ends at step {now.max_steps}; the first {self.step} steps followed one that ended "
                f"at step {before.max_steps}, unlike a run of {now.max_steps} steps from the start",
            )
        write_atomically(self._folder.config_path, to_yaml(self._config).encode())
        if self._built.decision.sensitivities is not None:
            write_atomically(self._folder.sensitivities_path, self._built.decision.sensitivities.to_json().encode())
        write_atomically(self._folder.plan_path, self._built.plan.to_json().encode())

    def _announce(self) -> None:
        built, plan = self._built, self._built.plan
        self._console.note(
            f"Run {self._folder.path}: {built.model.name}, task {built.task.name}, "
            f"{built.num_trained / 1e6:.1f}M trained parameters"
        )
        self._console.note(
            f"Plan: weights in {plan.storage.name}, micro-batches of {plan.way.microbatch_tokens} tokens, "
            f"{'activations kept' if plan.way.recompute is None else 'layers computed again in backward'}, "
            f"{plan.way.max_concurrent} sequences side by side; {gib(plan.peak_bytes):.2f} GiB predicted"
            + (f" of {self._config.memory.budget}" if self._config.memory.budget else "")
        )
        in_int8 = ", products in int8" if built.model.compute == "int8" else ""
        self._console.note(f"Kernels: {kernels_in_use()}{in_int8}")

    def _rehearse(self) -> None:
        """With a budget to keep, meet the largest micro-batch now rather than at step 120."""
        if self._config.memory.budget is None or self.step >= self._config.training.max_steps:
            return
        work = self._built.work
        with self._phases.phase("rehearse"):
            self._learner.rehearse(work.prompt, work.completion)
        self._tell_interventions()

    def _tell_interventions(self) -> None:
        for words in self._built.guard.take_interventions():
            self._event("memory", words)

    def _one_step(self) -> None:
        config, step = self._config, self.step + 1
        problems = self._problems(step)
        seeds = step_seeds(config.seed, step, len(problems))
        before = dict(self._phases.seconds)
        started = time.perf_counter()
        spares = partial(step_spares, self._built.task.train, config.seed, step)
        result = train_step(self._built.parts, problems, seeds, self._learner.adapter, self._phases, spares)
        seconds = time.perf_counter() - started
        self._train_seconds += seconds
        metrics = {**result.metrics, **result.update.metrics}
        metrics |= logprob_metrics(result.update.logprob_differences)
        timings = self._timings(result, seconds, before)
        rows = rollout_rows(result)
        self._store.record_step(step, metrics, timings, rows)
        if self._curriculum is not None:
            self._curriculum.learn(rows)
        self.step = step
        self._console.step(step, metrics, timings)
        self._tell_interventions()
        self._check(result, metrics)
        self._on_step(step, {**metrics, **timings})

    def _problems(self, step: int) -> list[Problem]:
        config = self._config
        if self._curriculum is not None:
            return self._curriculum.problems(step, config.prompts_per_step)
        return step_problems(self._built.task.train, config.seed, step, config.prompts_per_step)

    def _check(self, result: StepResult, metrics: Mapping[str, float]) -> None:
        largest = metrics.get("sampling/sampling_logp_difference/max", 0.0)
        warning = check_logprob_difference(largest, self._config.checks.logprob_difference)
        if warning:
            self._event("log-probs", warning)
        if result.update.skipped:
            words = f"step {self.step}: {result.update.skipped}; the weights were left as they are"
            if self._config.training.on_nonfinite == "stop":
                raise UserError(f"{words} (training.on_nonfinite is stop; the rollouts of the step are in run.sqlite)")
            self._event("not finite", words)

    def _timings(self, result: StepResult, seconds: float, before: Mapping[str, float]) -> dict[str, float]:
        spent = defaultdict(
            float, {name: value - before.get(name, 0.0) for name, value in self._phases.seconds.items()}
        )
        drawn = sum(len(completion.token_ids) for group in result.groups for completion in group.completions)
        learn_seconds = spent["score"] + spent["learn"]
        return {
            "step_time": seconds,
            "sample_seconds": spent["sample"],
            "reward_seconds": spent["reward"],
            "learn_seconds": learn_seconds,
            "sample_tokens_per_second": drawn / max(spent["sample"], 1e-9),
            "learn_tokens_per_second": result.update.num_tokens / max(learn_seconds, 1e-9),
            "memory_gib": gib(resident_bytes()),
            "peak_gib": gib(self._peak_bytes),
        }

    def _evaluate_if_due(self) -> None:
        config = self._config.evaluation
        is_end = self.step in (0, self._config.training.max_steps)
        is_due = is_end or (config.eval_steps > 0 and self.step % config.eval_steps == 0)
        if not (config.num_problems and is_due) or self._store_evaluation(self.step) is not None:
            return
        num_problems = config.num_problems if is_end else min(config.num_problems_during, config.num_problems)
        result = evaluate(
            self._built.parts.sampler,
            self._built.held_out[:num_problems],
            self._learner.adapter,
            self._built.parts.sampling,
            config.num_samples,
            self._built.task.is_correct,
            self._phases,
        )
        self._store.record_evaluation(self.step, result.figures, result.answers)
        self._console.evaluation(f"Held-out problems, step {self.step}", result.figures)

    def _store_evaluation(self, step: int) -> Mapping[str, Evaluation] | None:
        with RunStore.read(self._folder.store_path) as reader:
            return reader.evaluation(step)

    def _show_end(self, summary: Summary, before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> None:
        if not summary.finished:
            self._console.note(f"Stopped at step {self.step}. Go on with: {_how_to_resume(self._config)}")
            return
        if after:
            with RunStore.read(self._folder.store_path) as reader:
                pairs = paired_answers(reader.answers(0), reader.answers(self.step))
            self._console.table_before_after(before, after, pairs)
        phases = ", ".join(
            f"{name} {figures['measured_gib']:.2f} of {figures['predicted_gib']:.2f}"
            for name, figures in summary.memory.items()
        )
        self._console.note(
            f"{summary.steps} step{'s' if summary.steps != 1 else ''} in {summary.train_seconds / 60:.1f} minutes; "
            f"peak memory {summary.peak_gib:.2f} GiB (predicted {summary.predicted_peak_gib:.2f}; {phases}). "
            f"Adapter: {self._folder.adapter}. Read the rollouts: groat runs show {self._folder.path}"
        )

    def _memory(self) -> dict[str, dict[str, float]]:
        peaks = self._phases.peaks
        return {
            name: {"predicted_gib": round(gib(sum(parts.values())), 3), "measured_gib": round(gib(peaks[name]), 3)}
            for name, parts in self._built.plan.phases.items()
            if name in peaks
        }

    def _event(self, kind: str, message: str) -> None:
        self._store.record_event(self.step, kind, message)
        self._console.event(kind, message)

    @property
    def _peak_bytes(self) -> int:
        return max(self._earlier_peak, peak_bytes())


def _curriculum(config: RunConfig, task: Task) -> Curriculum | None:
    if not config.rollouts.curriculum:
        return None
    if not isinstance(task.train, tuple):
        raise UserError(
            f"rollouts.curriculum needs rows that come back, and task {task.name} never gives the same problem twice, "
            "or gives its rows in a fixed order: take rollouts.curriculum out"
        )
    return Curriculum(task.train, config.seed)


def _budget_gib(config: RunConfig) -> float | None:
    return None if config.memory.budget is None else round(gib(parse_size(config.memory.budget)), 3)


def _how_to_resume(config: RunConfig) -> str:
    if config.task.name == PYTHON_TASK:
        return "trainer.train(resume_from_checkpoint=True) in the script that started it"
    return f"groat resume {config.output_dir}"
