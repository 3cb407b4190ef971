"""The end of a run, finished or not: adapter and summary are written, and what changed is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from groat.config.sizes import parse_size
from groat.config.tree import RunConfig
from groat.memory.measure import gib
from groat.model.peft_files import save_peft
from groat.tracking.before_after import paired_answers
from groat.tracking.rows import Evaluation
from groat.tracking.store import RunStore
from groat.training.under_way import RunUnderWay, how_to_resume


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


def end(run: RunUnderWay) -> Summary:
    """Leave adapter and summary behind, and show what changed."""
    config = run.config
    save_peft(run.learner.adapter, run.built.model.spec, run.built.model.name, run.folder.adapter)
    finished = run.step >= config.training.max_steps and (
        config.evaluation.num_problems == 0 or run.evaluation_of(run.step) is not None
    )
    average = f"avg@{config.evaluation.num_samples}"
    before = run.evaluation_of(run.first) or {}
    after = (run.evaluation_of(run.step) if finished else None) or {}
    summary = Summary(
        finished=finished,
        output_dir=str(run.folder.path),
        steps=max(0, run.step),
        train_seconds=round(run.train_seconds, 3),
        peak_gib=round(gib(run.peak_bytes), 3),
        predicted_peak_gib=round(gib(max(run.built.plan.own_phases.values())), 3),
        budget_gib=_budget_gib(config),
        memory=_memory(run),
        accuracy_before=before.get(average),
        accuracy_after=after.get(average),
        greedy_before=before.get("greedy"),
        greedy_after=after.get("greedy"),
    )
    run.folder.write_summary(asdict(summary))
    _show(run, summary, before, after)
    return summary


def _show(
    run: RunUnderWay, summary: Summary, before: Mapping[str, Evaluation], after: Mapping[str, Evaluation]
) -> None:
    if not summary.finished:
        run.console.note(f"Stopped at {run.words_for(run.step)}. Go on with: {how_to_resume(run.config)}")
        return
    if after:
        with RunStore.read(run.folder.store_path) as reader:
            pairs = paired_answers(reader.answers(run.first), reader.answers(run.step))
        run.console.table_before_after(before, after, pairs)
    phases = ", ".join(
        f"{name} {figures['measured_gib']:.2f} of {figures['predicted_gib']:.2f}"
        for name, figures in summary.memory.items()
    )
    run.console.note(
        f"{summary.steps} step{'s' if summary.steps != 1 else ''} in {summary.train_seconds / 60:.1f} minutes; "
        f"peak memory {summary.peak_gib:.2f} GiB (predicted {summary.predicted_peak_gib:.2f}; {phases}). "
        f"Adapter: {run.folder.adapter}. Read the rollouts: groat runs show {run.folder.path}"
    )


def _memory(run: RunUnderWay) -> dict[str, dict[str, float]]:
    peaks = run.phases.peaks
    return {
        name: {"predicted_gib": round(gib(predicted), 3), "measured_gib": round(gib(peaks[name]), 3)}
        for name, predicted in run.built.plan.own_phases.items()
        if name in peaks
    }


def _budget_gib(config: RunConfig) -> float | None:
    return None if config.memory.budget is None else round(gib(parse_size(config.memory.budget)), 3)
