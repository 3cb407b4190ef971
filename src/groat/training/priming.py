"""The cold start of a run: worked examples are learned, step by step, before reinforcement learning begins."""

from __future__ import annotations

import time

from groat.model.lora import copy_of
from groat.tracking.store import RunStore
from groat.training.cold_start import PREFIX, ColdStart
from groat.training.under_way import RunUnderWay
from groat.types import UserError


class Priming:
    """Takes a run from its first step up to step 0."""

    def __init__(self, run: RunUnderWay) -> None:
        self._run = run

    def check_examples(self) -> None:
        """A cold start that was begun goes on with the examples it began with."""
        run = self._run
        with RunStore.read(run.folder.store_path) as reader:
            kept: str | None = reader.meta("cold_start")
        if kept is None:
            run.store.set_meta("cold_start", run.lessons.digest)
        elif kept != run.lessons.digest and run.step <= 0:
            raise UserError(
                f"the examples of {run.config.cold_start.examples}, or how often they are learned, are not what this "
                "run's cold start was begun with: put them back, or start a new run"
            )

    def prime(self) -> None:
        """Evaluate, then learn the examples until all steps are done or the user asks to stop; nothing where there are
        none, or where they have been learned."""
        run, cold_start = self._run, self._run.cold_start
        if cold_start is None:
            return
        if run.step < 0:
            run.evaluate_if_due()
            self._rehearse(cold_start)
            run.console.start_run(run.lessons.num_steps, run.primed_steps + 1, "Cold start")
        while run.step < 0 and not run.phases.stop_requested:
            self._step(cold_start)
            if run.primed_steps % run.config.cold_start.save_steps == 0 or run.step == 0:
                run.save()
        if run.step == 0:
            self._end()
            run.evaluate_if_due()

    def _rehearse(self, cold_start: ColdStart) -> None:
        if self._run.config.memory.budget is not None:
            with self._run.phases.phase("prime"):
                cold_start.rehearse()
            self._run.tell_interventions()

    def _step(self, cold_start: ColdStart) -> None:
        run = self._run
        started = time.perf_counter()
        with run.phases.phase("prime", unit="tokens") as done:
            update = cold_start.step(run.primed_steps + 1, done)
        seconds = time.perf_counter() - started
        run.train_seconds += seconds
        timings = {
            "step_time": seconds,
            "learn_seconds": seconds,
            "learn_tokens_per_second": update.num_tokens / max(seconds, 1e-9),
            **run.memory_timings(),
        }
        run.step += 1
        figures = {PREFIX + name: value for name, value in update.metrics.items()}
        run.store.record_step(run.step, figures, timings, [])
        run.console.step(run.primed_steps, update.metrics, timings)
        run.tell_interventions()
        run.check_finite(update)

    def _end(self) -> None:
        """Its optimizer is let go; the adapter stays, and is kept as it is where it is the reference policy."""
        run = self._run
        run.cold_start = None
        if run.config.holds_primed_policy:
            run.learner.reference = copy_of(run.learner.adapter)
