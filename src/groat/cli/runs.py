"""`groat runs` and `groat runs show RUN`: what was trained, how it went, and what the model wrote."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.text import Text

from groat.cli.run_report import rollout_report, run_report
from groat.cli.run_summary import RunSummary, summarize
from groat.config.load import read_yaml
from groat.config.tree import RunConfig
from groat.tracking.folder import RunFolder
from groat.tracking.printable import one_line
from groat.tracking.reader import RunReader
from groat.tracking.rows import RolloutRow
from groat.tracking.terminal import rich_console
from groat.tracking.wording import duration, percent
from groat.types import UserError


def list_runs(folder: Path, as_json: bool) -> None:
    """Two lines for every run in a folder, oldest first."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Runs are made by: groat train")
    found = [*folder.glob("config.yaml"), *folder.glob("*/config.yaml")]
    found.sort(key=lambda path: path.stat().st_mtime)
    summaries = [summarize(RunFolder(path.parent)) for path in found]
    if as_json:
        print(json.dumps(_without_nan([asdict(summary) for summary in summaries]), indent=2))
    elif not summaries:
        print(f"No runs in {folder}. Make one with: groat train")
    else:
        rich_console(sys.stdout).print(*map(_run_lines, summaries), sep="\n")


def show_run(run: Path, step: int | None, num: int, as_json: bool) -> None:
    """One run in full; `num` completions of one step, the last one if `step` is None."""
    folder = RunFolder.open(run)
    config = read_yaml(folder.config_path)
    with RunReader(folder.store_path) as reader:
        chosen = reader.last_step() if step is None else step
        rollouts = reader.rollouts(chosen) if chosen is not None else []
        if step is not None and not rollouts:
            raise UserError(f"{run} has no rollouts of step {step}: its last step is {reader.last_step()}")
        if as_json:
            print(json.dumps(_without_nan(_as_json(summarize(folder), config, reader, rollouts[:num]))))
            return
        console = rich_console(sys.stdout)
        for part in run_report(summarize(folder), config, reader):
            console.print(part)
        if chosen is not None:
            for part in rollout_report(chosen, rollouts, num):
                console.print(part)


def _run_lines(summary: RunSummary) -> Text:
    style = {"running": "green", "interrupted": "yellow", "unreadable": "red"}.get(summary.state, "dim")
    figures = [
        f"{summary.steps}/{summary.max_steps or '?'} steps",
        _from_to("reward", summary.first_reward, summary.last_reward, "{:.3f}".format),
        _from_to("accuracy", summary.accuracy_before, summary.accuracy_after, percent),
        "" if summary.peak_gib is None else f"peak {summary.peak_gib:.2f} GiB",
        "" if summary.seconds is None else duration(summary.seconds),
    ]
    return Text.assemble(
        (one_line(summary.path), "bold"), "  ", (summary.state, style), "\n  ", "   ".join(filter(None, figures))
    )


def _from_to(name: str, first: float | None, last: float | None, words: Callable[[float], str]) -> str:
    if first is None:
        return ""
    return f"{name} {words(first)}" + ("" if last is None else f" → {words(last)}")


def _as_json(
    summary: RunSummary, config: RunConfig, reader: RunReader, rollouts: Sequence[RolloutRow]
) -> dict[str, Any]:
    return {
        "summary": asdict(summary),
        "config": asdict(config),
        "metrics": {name: reader.metrics(name) for name in reader.metric_names()},
        "timings": {name: reader.timings(name) for name in reader.timing_names()},
        "evaluations": {
            at: {name: asdict(result) for name, result in results.items()}
            for at, results in reader.evaluations().items()
        },
        "events": [asdict(event) for event in reader.events()],
        "rollouts": [asdict(row) for row in rollouts],
    }


def _without_nan(value: Any) -> Any:
    """JSON has no nan and no infinity: they become null."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value
