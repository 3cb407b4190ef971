"""A run under way: which step it is at, what it has cost so far, and its record in its folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from groat.config.load import read_yaml, to_yaml
from groat.config.tree import RunConfig
from groat.kernels.native import kernels_in_use
from groat.learning.learner import Learner, Update
from groat.memory.measure import gib, peak_bytes, resident_bytes
from groat.tasks.judges import shares_won
from groat.tasks.task import PYTHON_TASK
from groat.tracking.bridges import Bridges
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder, write_atomically
from groat.tracking.rows import Evaluation
from groat.tracking.store import RunStore
from groat.training.build import Built
from groat.training.checkpoint import Checkpoint, Progress, newest_checkpoint, save_checkpoint
from groat.training.checks import check_policy_canary
from groat.training.cold_start import ColdStart, reference_from, reference_tensors
from groat.training.evaluate import Compare, evaluate
from groat.training.phases import Phases
from groat.types import UserError


class RunUnderWay:
    """What the cold start and reinforcement learning of a run share."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        console: Console,
        phases: Phases,
        store: RunStore,
        built: Built,
        bridges: Bridges,
    ) -> None:
        self.config = config
        self.folder = folder
        self.console = console
        self.phases = phases
        self.store = store
        self.built = built
        self.bridges = bridges
        self.learner: Learner = built.parts.learner
        self.train_seconds = 0.0
        self._saved_step: int | None = None
        self.lessons = built.decision.lessons
        self.cold_start = ColdStart(config, built) if self.lessons.examples else None
        """None: there is none, or it is over."""
        self.step = self.first = -self.lessons.num_steps
        """The last step that is done; up to 0 they are those of the cold start."""
        self._earlier_peak = 0

    def restore(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        checkpoint = newest_checkpoint(self.folder.checkpoints, lambda words: self.event("checkpoint", words))
        if checkpoint is not None:
            progress = checkpoint.progress
            self._check_fits(checkpoint)
            self.step = self._saved_step = progress.step
            self._restore_learner(checkpoint)
            if progress.microbatch_tokens is not None:
                learner = self.active_learner
                learner.microbatch_tokens = min(progress.microbatch_tokens, learner.microbatch_tokens)
            self.train_seconds, self._earlier_peak = progress.train_seconds, progress.peak_bytes
            self.console.note(f"Going on from the checkpoint of {self.words_for(self.step)}")

    def adopt_config(self) -> None:
        """From here on this config is the run's own; another number of steps than before is checked and told. What was
        recorded after the last step is forgotten."""
        before, now = read_yaml(self.folder.config_path).training, self.config.training
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
            self.event(
                "learning rate",
                f"its schedule now ends at step {now.max_steps}; the first {self.step} steps followed one that ended "
                f"at step {before.max_steps}, unlike a run of {now.max_steps} steps from the start",
            )
        write_atomically(self.folder.config_path, to_yaml(self.config).encode())
        if self.built.decision.sensitivities is not None:
            write_atomically(self.folder.sensitivities_path, self.built.decision.sensitivities.to_json().encode())
        write_atomically(self.folder.plan_path, self.built.plan.to_json().encode())
        self.store.forget_after(self.step)

    def announce(self) -> None:
        """Tell what is run, and how it was planned."""
        built, plan = self.built, self.built.plan
        self.console.note(
            f"Run {self.folder.path}: {built.model.name}, task {built.task.name}, "
            f"{built.num_trained / 1e6:.1f}M trained parameters"
        )
        self.console.note(
            f"Plan: weights in {plan.storage.name}, micro-batches of {plan.way.microbatch_tokens} tokens, "
            f"{'activations kept' if plan.way.recompute is None else 'layers computed again in backward'}, "
            f"{plan.way.max_concurrent} sequences side by side; {gib(plan.peak_bytes):.2f} GiB predicted"
            + (f" of {self.config.memory.budget}" if self.config.memory.budget else "")
        )
        in_int8 = ", products in int8" if built.model.compute == "int8" else ""
        kv_in_int8 = ", keys and values in int8" if built.model.kv_storage == "int8" else ""
        self.console.note(f"Kernels: {kernels_in_use()}{in_int8}{kv_in_int8}")

    def check_canary(self) -> None:
        """At the very beginning: a policy that was changed must answer otherwise, or the adapter is not used."""
        if self.step == self.first and self.config.checks.policy_canary:
            parts = self.built.parts
            first = parts.encode([self.built.task.train[0]])[0]
            check_policy_canary(parts.sampler, first, self.learner.adapter, parts.sampling)

    def evaluate_if_due(self) -> None:
        """On held-out problems: before, during and after training."""
        config = self.config.evaluation
        is_end = self.step in (self.first, 0, self.config.training.max_steps)
        is_due = is_end or (config.eval_steps > 0 and self.step > 0 and self.step % config.eval_steps == 0)
        if not (config.num_problems and is_due) or self.evaluation_of(self.step) is not None:
            return
        num_problems = config.num_problems if is_end else min(config.num_problems_during, config.num_problems)
        result = evaluate(
            self.built.parts.sampler,
            self.built.held_out[:num_problems],
            self.learner.adapter,
            self.built.parts.sampling,
            config.num_samples,
            self.built.task.is_correct,
            self.phases,
            self._compare(),
        )
        self.store.record_evaluation(self.step, result.figures, result.answers)
        self.bridges.log(self.step, {name: figure.value for name, figure in result.figures.items()}, "eval")
        self.console.evaluation(f"Held-out problems, {self.words_for(self.step)}", result.figures)

    def save(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one."""
        if self._saved_step == self.step or self.step == self.first:
            return
        started = time.perf_counter()
        with self.phases.phase("save"):
            save_checkpoint(
                self.folder.checkpoints,
                Progress(
                    step=self.step,
                    policy_version=self.active_learner.adapter.version,
                    train_seconds=self.train_seconds,
                    peak_bytes=self.peak_bytes,
                    microbatch_tokens=self.active_learner.microbatch_tokens,
                    primed_steps=self.primed_steps,
                ),
                {**self.active_learner.state(), **reference_tensors(self.learner.reference)},
                self.config.training.save_total_limit,
                self.store.flush,
            )
        self._saved_step = self.step
        self.train_seconds += time.perf_counter() - started

    def last_words(self, error: UserError) -> str:
        """Record the error and save what was trained, as far as the disk allows; returns what to tell the user."""
        words = str(error)
        # The first error is the one to put right, even where it keeps us from recording it.
        with suppress(UserError):
            self.store.record_event(self.step, "error", words)
        with suppress(UserError):
            self.save()
        go_on = "go on" if self._saved_step is None else f"go on from {self.words_for(self._saved_step)}"
        return f"{words.rstrip('.')}. Once that is put right, {go_on}: {how_to_resume(self.config)}"

    def tell_interventions(self) -> None:
        """What the guard over memory has done since the last call."""
        for words in self.built.guard.take_interventions():
            self.event("memory", words)

    def check_finite(self, update: Update) -> None:
        """UserError, or an event, for an update that was left out because something in it was not finite."""
        if update.skipped:
            words = f"{self.words_for(self.step)}: {update.skipped}; the weights were left as they are"
            if self.config.training.on_nonfinite == "stop":
                raise UserError(f"{words} (training.on_nonfinite is stop; the rollouts of the step are in run.sqlite)")
            self.event("not finite", words)

    def event(self, kind: str, message: str) -> None:
        """Record it and show it."""
        self.store.record_event(self.step, kind, message)
        self.console.event(kind, message)

    def words_for(self, step: int) -> str:
        """What a step is called, the cold start's too."""
        if step > 0 or not self.lessons.examples:
            return f"step {step}"
        if step == self.first:
            return "the beginning, before the cold start"
        return f"step {step - self.first} of the cold start's {self.lessons.num_steps}"

    @property
    def primed_steps(self) -> int:
        """Of the cold start, that are done."""
        return min(0, self.step) - self.first

    @property
    def active_learner(self) -> Learner:
        """The one that trains now: both have the same adapter."""
        return self.learner if self.cold_start is None else self.cold_start.learner

    def evaluation_of(self, step: int) -> Mapping[str, Evaluation] | None:
        """What was recorded after this step."""
        with RunStore.read(self.folder.store_path) as reader:
            return reader.evaluation(step)

    def memory_timings(self) -> dict[str, float]:
        """What the process holds and has held at most, in GiB."""
        return {"memory_gib": gib(resident_bytes()), "peak_gib": gib(self.peak_bytes)}

    @property
    def peak_bytes(self) -> int:
        """The most that was held, in earlier processes of this run too."""
        return max(self._earlier_peak, peak_bytes())

    def _restore_learner(self, checkpoint: Checkpoint) -> None:
        progress = checkpoint.progress
        if progress.step > 0:
            self.cold_start = None
            if self.config.holds_primed_policy:
                self.learner.reference = reference_from(checkpoint.tensors, self.learner.adapter)
        try:
            self.active_learner.restore(checkpoint.tensors, progress.policy_version)
        except ValueError as error:
            raise UserError(
                f"the checkpoint of {self.words_for(progress.step)} in {self.folder.checkpoints}: {error}. Put "
                f"training.optim in {self.folder.config_path} back to what it was"
            ) from error

    def _check_fits(self, checkpoint: Checkpoint) -> None:
        trained = ("adapter.", "value.")
        found = {name: one.shape for name, one in checkpoint.tensors.items() if name.startswith(trained)}
        if found != {name: tensor.shape for name, tensor in self.learner.state().items()}:
            raise UserError(
                f"the checkpoint of {self.words_for(checkpoint.progress.step)} in {self.folder.checkpoints} is of an "
                f"adapter with other sizes: put model.name, lora.r and algorithm in {self.folder.config_path} back to "
                "what they were"
            )

    def _compare(self) -> Compare | None:
        """With the answers before training, where there is a judge; they themselves are as good as they are."""
        judge, others = self.built.task.judge, self._answers_before()
        if judge is None:
            return None
        if self.step == self.first:
            return lambda _, texts: [0.5] * len(texts)
        seconds = self.config.task.reward_timeout_seconds
        return lambda problems, texts: shares_won(judge, problems, texts, [others[p.id] for p in problems], seconds)

    def _answers_before(self) -> dict[str, str]:
        with RunStore.read(self.folder.store_path) as reader:
            return {row.problem_id: row.text for row in reader.answers(self.first)}


def how_to_resume(config: RunConfig) -> str:
    """What to type for it."""
    if config.task.name == PYTHON_TASK:
        return "trainer.train(resume_from_checkpoint=True) in the script that started it"
    return f"groat resume {config.output_dir}"
