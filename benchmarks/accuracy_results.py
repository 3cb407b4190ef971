"""The file of results of `time_to_accuracy`: every step and every saved adapter of each side, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.curves import Point, comparison, step_speed
from benchmarks.machine import groat_versions, machine_facts
from benchmarks.sides import GROAT
from benchmarks.training_work import TrainingWork, trl_options
from groat.tracking.folder import write_atomically
from groat.tracking.rows import Evaluation
from groat.types import UserError


class AccuracyResults:
    """Written anew after every step and every evaluation, so that what was interrupted leaves what it had."""

    def __init__(self, path: Path, work: TrainingWork, target: float, *, reuse: bool) -> None:
        self.path = path
        self._saved_steps = work.saved_steps
        self._figure = f"avg@{work.config.evaluation.num_samples}"
        self._target = target
        self.data: dict[str, Any] = {
            "benchmark": "time_to_accuracy",
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "is_finished": False,
            "work": _described(work),
            "machine": machine_facts(),
            "versions": {"evaluation": groat_versions()},
            "sides": {},
            "summary": {},
        }
        if reuse and path.exists():
            self._take_over(json.loads(path.read_text()))

    def begin(self, side: str, settings: Mapping[str, Any]) -> bool:
        """Whether the side has to be trained: False where it is there already, trained with the same settings."""
        known = self.data["sides"].get(side)
        if known is not None and known["is_trained"]:
            if known["settings"] != settings:
                raise UserError(
                    f"{self.path} has {side} trained with {known['settings']}, and {dict(settings)} was asked for: "
                    "take --reuse out, or give another --name"
                )
            return False
        self.data["sides"][side] = {
            "settings": dict(settings),
            "is_trained": False,
            "facts": {},
            "step_seconds": [],
            "step_rewards": [],
            "curve": [],
        }
        if side == GROAT:
            self.data["versions"][GROAT] = groat_versions()
        return True

    def add_step(self, side: str, record: Mapping[str, Any]) -> None:
        entry = self.data["sides"][side]
        assert record["step"] == len(entry["step_seconds"]) + 1
        entry["step_seconds"].append(record["seconds"])
        entry["step_rewards"].append(record["reward"])
        self._write()

    def add_facts(self, side: str, facts: Mapping[str, Any]) -> None:
        """What a side's process says of itself; `versions` have a place of their own."""
        self.data["versions"] |= {side: facts["versions"]} if "versions" in facts else {}
        self.data["sides"][side]["facts"] |= {name: value for name, value in facts.items() if name != "versions"}
        self._write()

    def trained(self, side: str) -> None:
        self.data["sides"][side]["is_trained"] = True
        self._write()

    def add_point(self, side: str, point: Point) -> None:
        self.data["sides"][side]["curve"].append(point.to_json())
        self._write()

    def finish(self) -> None:
        self.data["is_finished"] = True
        self._write()

    def facts(self, side: str) -> Mapping[str, Any]:
        return self.data["sides"][side]["facts"]

    def step_seconds(self, side: str) -> Sequence[float]:
        return self.data["sides"][side]["step_seconds"]

    def steps_without_figures(self, side: str) -> list[int]:
        """Of the first adapter, 0, and the saved ones."""
        known = [point["steps"] for point in self.data["sides"][side]["curve"]]
        return [steps for steps in (0, *self._saved_steps) if steps not in known]

    def figures_at_start(self) -> Mapping[str, Evaluation] | None:
        """Those of the adapter that all sides start from, if any side has them."""
        points = [Point.from_json(point) for side in self.data["sides"].values() for point in side["curve"]]
        return next((point.figures for point in points if point.steps == 0), None)

    def _take_over(self, before: dict[str, Any]) -> None:
        for name in ("work", "machine"):
            if before[name] != self.data[name]:
                raise UserError(
                    f"{self.path} was written with other values of `{name}` ({before[name]}): take --reuse out, or "
                    "give another --name"
                )
        kept = {side: entry for side, entry in before["sides"].items() if entry["is_trained"]}
        self.data |= {"started": before["started"], "sides": kept}
        self.data["versions"] = before["versions"] | self.data["versions"]

    def _write(self) -> None:
        sides: dict[str, Any] = self.data["sides"]
        curves = {name: [Point.from_json(point) for point in side["curve"]] for name, side in sides.items()}
        self.data["summary"] = {
            **comparison(curves, self._figure, self._target),
            "step_speed": step_speed({name: side["step_seconds"] for name, side in sides.items()}),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (json.dumps(self.data, indent=1) + "\n").encode())


def accuracy_report(data: Mapping[str, Any]) -> Iterator[str]:
    """The lines, for results of at least groat's side."""
    summary = data["summary"]
    figure, target = summary["figure"], f"{summary['target']:.0%}"
    for side, entry in data["sides"].items():
        yield f"{side}: {len(entry['step_seconds'])} steps in {sum(entry['step_seconds']):.0f} s of training"
        for point in entry["curve"]:
            found = point["figures"][figure]
            interval = f"[{found['low']:.1%}, {found['high']:.1%}]"
            yield f"  {point['steps']:>4} steps {point['seconds']:>8.1f} s  {figure} {found['value']:.1%} {interval}"
        yield f"  {_reached_words(summary['reached'][side], f'{figure} of {target}')}"
    for side, ratio in summary["times_less"].items():
        yield f"to {figure} of {target} groat takes {ratio:.2f} times less time than {side}"
    for side, ratio in summary["step_speed"].items():
        yield f"a step of groat takes {ratio:.2f} times less time than one of {side}"


def _reached_words(reached: Mapping[str, Any] | None, what: str) -> str:
    if reached is None:
        return f"{what} was not reached"
    return f"{what} was reached after {reached['steps']} steps, {reached['seconds']:.1f} s"


def _described(work: TrainingWork) -> dict[str, Any]:
    """Of a model only its name."""
    config = work.config
    return {
        "model": Path(config.model.name).name,
        "task": config.task.name,
        "num_examples": config.task.num_examples,
        "lora_r": config.lora.r,
        "lora_alpha": config.lora.lora_alpha,
        **trl_options(config),
        "saved_steps": work.saved_steps,
        "held_out_problems": config.evaluation.num_problems,
    }
