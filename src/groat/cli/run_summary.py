"""One run in a few figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from groat.config.load import read_yaml
from groat.tracking.folder import RunFolder
from groat.tracking.lock import lock_holder
from groat.tracking.reader import RunReader
from groat.tracking.rows import Evaluation
from groat.types import UserError


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What `groat runs` tells of one run; None where it is not known."""

    path: str
    state: str
    """`running`, `finished`, `interrupted`, or `unreadable`."""
    steps: int = 0
    max_steps: int | None = None
    first_reward: float | None = None
    """Mean reward of the first steps, as many as the last ones, to even out chance."""
    last_reward: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    peak_gib: float | None = None
    seconds: float | None = None


def summarize(folder: RunFolder) -> RunSummary:
    """Never fails: a run that cannot be read says so by its state."""
    path = str(folder.path)
    try:
        state, max_steps = _state(folder), read_yaml(folder.config_path).training.max_steps
    except UserError:
        return RunSummary(path=path, state="unreadable")
    try:
        with RunReader(folder.store_path) as reader:
            return _figures(path, state, max_steps, reader)
    except UserError:
        return RunSummary(path=path, state=state if state == "running" else "unreadable", max_steps=max_steps)


def primary_accuracy(results: Mapping[str, Evaluation]) -> float | None:
    """The figure that stands for an evaluation: avg@k where there is one, else the first; a win rate is none."""
    for name, result in results.items():
        if name.startswith("avg@"):
            return result.value
    return next((result.value for name, result in results.items() if name != "win_rate"), None)


def _state(folder: RunFolder) -> str:
    if lock_holder(folder.path) is not None:
        return "running"
    summary = folder.read_summary()
    return "finished" if summary is not None and summary.get("finished", True) else "interrupted"


def _figures(path: str, state: str, max_steps: int, reader: RunReader) -> RunSummary:
    rewards = [value for _, value in reader.metrics("reward")]
    num_ends = min(5, max(1, len(rewards) // 2))
    evaluations = reader.evaluations()
    later = [at for at in evaluations if at > 0]
    peaks = [value for _, value in reader.timings("peak_gib")]
    times = [value for _, value in reader.timings("step_time")]
    return RunSummary(
        path=path,
        state=state,
        steps=max(0, reader.last_step() or 0),
        max_steps=max_steps,
        first_reward=_mean(rewards[:num_ends]),
        last_reward=_mean(rewards[-num_ends:]),
        accuracy_before=primary_accuracy(evaluations[first]) if (first := min(evaluations, default=1)) <= 0 else None,
        accuracy_after=primary_accuracy(evaluations[later[-1]]) if later else None,
        peak_gib=max(peaks, default=None),
        seconds=sum(times) if times else None,
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
