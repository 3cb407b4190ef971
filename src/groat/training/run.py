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
from groat.learning.learner import Learner, Update
from groat.memory.measure import gib, peak_bytes, resident_bytes
from groat.model.lora import copy_of
from groat.model.peft_files import save_peft
from groat.tasks.judges import shares_won
from groat.tasks.reflection import ReflectionCounter, reflection_metrics
from groat.tasks.task import PYTHON_TASK, Task, build_task
from groat.tracking.before_after import paired_answers
from groat.tracking.bridges import BridgedRun, Bridges, check_trackers
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder, numbered_output_dir, write_atomically
from groat.tracking.lock import RunLock
from groat.tracking.rows import Evaluation
from groat.tracking.store import RunStore
from groat.training.build import Built, build
from groat.training.checkpoint import Checkpoint, Progress, newest_checkpoint, save_checkpoint
from groat.training.checks import check_logprob_difference, check_policy_canary, logprob_metrics
from groat.training.cold_start import PREFIX, ColdStart, reference_from, reference_tensors
from groat.training.curriculum import Curriculum
from groat.training.decide import decide
from groat.training.entropy_control import entropy_control
from groat.training.evaluate import Compare, evaluate
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
    config: RunConfig,
    console: Console,
    task: Task | None = None,
    on_step: OnStep = lambda _, __: None,
    *,
    only_prime: bool = False,
) -> Summary:
    """Start a run in a new folder. `task` replaces the configured one (the Python API's datasets and functions).

    `only_prime` stops it behind the cold start; `resume` goes on with reinforcement learning.
    """
    if only_prime and config.cold_start.examples is None:
        raise UserError("there is nothing to prime with: name a file of worked examples in cold_start.examples")
    path = numbered_output_dir(config.output_dir, config.model.name, config.task.name)
    config = replace(config, output_dir=str(path))
    check_trackers(config.track.report_to)
    folder = RunFolder.create(path)
    with RunLock(folder.path):
        write_atomically(folder.config_path, to_yaml(config).encode())
        try:
            return _run(config, folder, console, task, on_step, only_prime=only_prime)
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


def _run(
    config: RunConfig,
    folder: RunFolder,
    console: Console,
    task: Task | None,
    on_step: OnStep,
    *,
    only_prime: bool = False,
) -> Summary:
    phases = Phases(console)
    bridges = Bridges(config.track.report_to)
    with phases.stopping_on_signals():
        task = build_task(config.task, config.seed) if task is None else task
        decision = decide(config, task, phases, folder, console.note)
        with phases.phase("load"):
            built = build(config, task, decision)
            # What `auto` has come to holds for the whole run, wherever it goes on.
            found = {"compute": built.model.compute, "kv_cache": built.model.kv_storage}
            config = replace(config, model=replace(config.model, **found))
        with RunStore(folder.store_path) as store:
            run = _Run(config, folder, console, phases, store, built, on_step, bridges)
            try:
                run.restore()
                bridges.begin(_bridged(config, folder, run.step))
                with suppress(Stopped):
                    run.prime()
                    if not only_prime:
                        run.train()
                run.save()
                return run.close()
            except UserError as error:
                raise type(error)(run.last_words(error)) from error
            finally:
                bridges.end(finished=run.step >= config.training.max_steps)
                built.close()


def _bridged(config: RunConfig, folder: RunFolder, step: int) -> BridgedRun:
    return BridgedRun(
        folder=folder.path,
        project=config.track.project,
        name=config.track.run_name or folder.path.name,
        config=asdict(config),
        first_step=step,
    )


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
        bridges: Bridges,
    ) -> None:
        self._config = config
        self._folder = folder
        self._console = console
        self._phases = phases
        self._store = store
        self._built = built
        self._on_step = on_step
        self._bridges = bridges
        self._learner: Learner = built.parts.learner
        self._train_seconds = 0.0
        self._earlier_peak = 0
        self._saved_step: int | None = None
        self._curriculum = _curriculum(config, built.task)
        self._reflections = ReflectionCounter(config.reflection.phrases) if config.reflection.enabled else None
        self._entropy_control = entropy_control(config)
        self._lessons = built.decision.lessons
        self._cold_start = ColdStart(config, built) if self._lessons.examples else None
        """None: there is none, or it is over."""
        self.step = self._first = -self._lessons.num_steps
        """The last step that is done; up to 0 they are those of the cold start."""

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one, and forget what came after it."""
        checkpoint = newest_checkpoint(self._folder.checkpoints, lambda words: self._event("checkpoint", words))
        if checkpoint is not None:
            progress = checkpoint.progress
            self._check_fits(checkpoint)
            self.step = self._saved_step = progress.step
            self._restore_learner(checkpoint)
            if progress.microbatch_tokens is not None:
                learner = self._active_learner
                learner.microbatch_tokens = min(progress.microbatch_tokens, learner.microbatch_tokens)
            self._train_seconds, self._earlier_peak = progress.train_seconds, progress.peak_bytes
            self._console.note(f"Going on from the checkpoint of {self._words_for(self.step)}")
        self._check_lessons()
        self._adopt_config()
        self._store.forget_after(self.step)
        self._recall()

    def prime(self) -> None:
        """Evaluate, then learn the worked examples, if there are any, until all steps are done or the user asks to
        stop."""
        config = self._config
        self._announce()
        if self.step == self._first and config.checks.policy_canary:
            first = self._built.parts.encode([self._built.task.train[0]])[0]
            check_policy_canary(self._built.parts.sampler, first, self._learner.adapter, self._built.parts.sampling)
        if self._cold_start is None:
            return
        if self.step < 0:
            self._evaluate_if_due()
            self._rehearse_priming(self._cold_start)
            self._console.start_run(self._lessons.num_steps, self._primed_steps + 1, "Cold start")
        while self.step < 0 and not self._phases.stop_requested:
            self._priming_step(self._cold_start)
            if self._primed_steps % config.cold_start.save_steps == 0 or self.step == 0:
                self.save()
        if self.step == 0:
            self._end_cold_start()
            self._evaluate_if_due()

    def train(self) -> None:
        """Evaluate, then step until all steps are done or the user asks to stop."""
        config = self._config
        if self.step < 0:
            return
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

    def _recall(self) -> None:
        """What the curriculum and the entropy's coefficient have learned is counted again from the record."""
        with RunStore.read(self._folder.store_path) as reader:
            if self._curriculum is not None:
                for step in range(1, self.step + 1):
                    self._curriculum.learn(reader.rollouts(step))
            if self._entropy_control is not None:
                self._entropy_control.learn(value for _, value in reader.metrics("entropy"))

    def _restore_learner(self, checkpoint: Checkpoint) -> None:
        progress = checkpoint.progress
        if progress.step > 0:
            self._cold_start = None
            if self._config.holds_primed_policy:
                self._learner.reference = reference_from(checkpoint.tensors, self._learner.adapter)
        try:
            self._active_learner.restore(checkpoint.tensors, progress.policy_version)
        except ValueError as error:
            raise UserError(
                f"the checkpoint of {self._words_for(progress.step)} in {self._folder.checkpoints}: {error}. Put "
                f"training.optim in {self._folder.config_path} back to what it was"
            ) from error

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if self._saved_step == self.step or self.step == self._first:
            return
        started = time.perf_counter()
        with self._phases.phase("save"):
            save_checkpoint(
                self._folder.checkpoints,
                Progress(
                    step=self.step,
                    policy_version=self._active_learner.adapter.version,
                    train_seconds=self._train_seconds,
                    peak_bytes=self._peak_bytes,
                    microbatch_tokens=self._active_learner.microbatch_tokens,
                    primed_steps=self._primed_steps,
                ),
                {**self._active_learner.state(), **reference_tensors(self._learner.reference)},
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
        before = self._store_evaluation(self._first) or {}
        after = (self._store_evaluation(self.step) if finished else None) or {}
        summary = Summary(
            finished=finished,
            output_dir=str(self._folder.path),
            steps=max(0, self.step),
            train_seconds=round(self._train_seconds, 3),
            peak_gib=round(gib(self._peak_bytes), 3),
            predicted_peak_gib=round(gib(max(self._built.plan.own_phases.values())), 3),
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
        go_on = "go on" if self._saved_step is None else f"go on from {self._words_for(self._saved_step)}"
        return f"{words.rstrip('.')}. Once that is put right, {go_on}: {_how_to_resume(self._config)}"

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        trained = ("adapter.", "value.")
        found = {name: one.shape for name, one in checkpoint.tensors.items() if name.startswith(trained)}
        if found != {name: tensor.shape for name, tensor in self._learner.state().items()}:
            raise UserError(
                f"the checkpoint of {self._words_for(checkpoint.progress.step)} in {self._folder.checkpoints} is of an "
                f"adapter with other sizes: put model.name, lora.r and algorithm in {self._folder.config_path} back to "
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
            self.step > 0
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
        kv_in_int8 = ", keys and values in int8" if built.model.kv_storage == "int8" else ""
        self._console.note(f"Kernels: {kernels_in_use()}{in_int8}{kv_in_int8}")

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

    @property
    def _active_learner(self) -> Learner:
        """The one that trains now: both have the same adapter."""
        return self._learner if self._cold_start is None else self._cold_start.learner

    @property
    def _primed_steps(self) -> int:
        return min(0, self.step) - self._first

    def _words_for(self, step: int) -> str:
        if step > 0 or not self._lessons.examples:
            return f"step {step}"
        if step == self._first:
            return "the beginning, before the cold start"
        return f"step {step - self._first} of the cold start's {self._lessons.num_steps}"

    def _check_lessons(self) -> None:
        """A cold start that was begun goes on with the examples it began with."""
        with RunStore.read(self._folder.store_path) as reader:
            kept: str | None = reader.meta("cold_start")
        if kept is None:
            self._store.set_meta("cold_start", self._lessons.digest)
        elif kept != self._lessons.digest and self.step <= 0:
            raise UserError(
                f"the examples of {self._config.cold_start.examples}, or how often they are learned, are not what this "
                "run's cold start was begun with: put them back, or start a new run"
            )

    def _rehearse_priming(self, cold_start: ColdStart) -> None:
        if self._config.memory.budget is not None:
            with self._phases.phase("prime"):
                cold_start.rehearse()
            self._tell_interventions()

    def _priming_step(self, cold_start: ColdStart) -> None:
        started = time.perf_counter()
        with self._phases.phase("prime", unit="tokens") as done:
            update = cold_start.step(self._primed_steps + 1, done)
        seconds = time.perf_counter() - started
        self._train_seconds += seconds
        timings = {
            "step_time": seconds,
            "learn_seconds": seconds,
            "learn_tokens_per_second": update.num_tokens / max(seconds, 1e-9),
            **self._memory_timings(),
        }
        self.step += 1
        figures = {PREFIX + name: value for name, value in update.metrics.items()}
        self._store.record_step(self.step, figures, timings, [])
        self._console.step(self._primed_steps, update.metrics, timings)
        self._tell_interventions()
        self._check_finite(update)

    def _end_cold_start(self) -> None:
        """Its optimizer is let go; the adapter stays, and is kept as it is where it is the reference policy."""
        self._cold_start = None
        if self._config.holds_primed_policy:
            self._learner.reference = copy_of(self._learner.adapter)

    def _one_step(self) -> None:
        config, step = self._config, self.step + 1
        problems = self._problems(step)
        seeds = step_seeds(config.seed, step, len(problems))
        before = dict(self._phases.seconds)
        started = time.perf_counter()
        spares = partial(step_spares, self._built.task.train, config.seed, step)
        parts, control = self._built.parts, self._entropy_control
        if control is not None:
            parts = replace(parts, algorithm=control.applied(parts.algorithm))
        result = train_step(parts, problems, seeds, self._learner.adapter, self._phases, spares)
        seconds = time.perf_counter() - started
        self._train_seconds += seconds
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
        self._store.record_step(step, metrics, timings, rows)
        if self._curriculum is not None:
            self._curriculum.learn(rows)
        self.step = step
        self._console.step(step, metrics, timings)
        self._tell_interventions()
        self._check(result, metrics)
        self._bridges.log(step, {**metrics, **timings})
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
        self._check_finite(result.update)

    def _check_finite(self, update: Update) -> None:
        if update.skipped:
            words = f"{self._words_for(self.step)}: {update.skipped}; the weights were left as they are"
            if self._config.training.on_nonfinite == "stop":
                raise UserError(f"{words} (training.on_nonfinite is stop; the rollouts of the step are in run.sqlite)")
            self._event("not finite", words)

    def _timings(self, result: StepResult, seconds: float, before: Mapping[str, float]) -> dict[str, float]:
        spent = defaultdict(
            float, {name: value - before.get(name, 0.0) for name, value in self._phases.seconds.items()}
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
            **self._memory_timings(),
        }

    def _memory_timings(self) -> dict[str, float]:
        return {"memory_gib": gib(resident_bytes()), "peak_gib": gib(self._peak_bytes)}

    def _evaluate_if_due(self) -> None:
        config = self._config.evaluation
        is_end = self.step in (self._first, 0, self._config.training.max_steps)
        is_due = is_end or (config.eval_steps > 0 and self.step > 0 and self.step % config.eval_steps == 0)
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
            self._compare(),
        )
        self._store.record_evaluation(self.step, result.figures, result.answers)
        self._bridges.log(self.step, {name: figure.value for name, figure in result.figures.items()}, "eval")
        self._console.evaluation(f"Held-out problems, {self._words_for(self.step)}", result.figures)

    def _compare(self) -> Compare | None:
        """With the answers before training, where there is a judge; they themselves are as good as they are."""
        judge, others = self._built.task.judge, self._answers_before()
        if judge is None:
            return None
        if self.step == self._first:
            return lambda _, texts: [0.5] * len(texts)
        seconds = self._config.task.reward_timeout_seconds
        return lambda problems, texts: shares_won(judge, problems, texts, [others[p.id] for p in problems], seconds)

    def _answers_before(self) -> dict[str, str]:
        with RunStore.read(self._folder.store_path) as reader:
            return {row.problem_id: row.text for row in reader.answers(self._first)}

    def _store_evaluation(self, step: int) -> Mapping[str, Evaluation] | None:
        with RunStore.read(self._folder.store_path) as reader:
            return reader.evaluation(step)

    def _show_end(self, summary: Summary, before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]) -> None:
        if not summary.finished:
            self._console.note(f"Stopped at {self._words_for(self.step)}. Go on with: {_how_to_resume(self._config)}")
            return
        if after:
            with RunStore.read(self._folder.store_path) as reader:
                pairs = paired_answers(reader.answers(self._first), reader.answers(self.step))
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
            name: {"predicted_gib": round(gib(predicted), 3), "measured_gib": round(gib(peaks[name]), 3)}
            for name, predicted in self._built.plan.own_phases.items()
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
