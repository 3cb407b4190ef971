"""The file of results: what was measured on what, every repetition, and what they come to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.job import Job
from benchmarks.machine import groat_versions, machine_facts
from benchmarks.rates import Rates, best_of
from benchmarks.shares import shares
from benchmarks.sides import GROAT
from benchmarks.spread import Spread
from benchmarks.work import Work
from groat.model.spec import ModelSpec
from groat.tracking.folder import write_atomically

RATIOS: Mapping[str, str] = {
    "rollout_tokens_per_second": "speed",
    "step_seconds": "speed",
    "peak_gib": "memory",
}
"""What is compared: how many times as fast groat is, and what part of the other's memory it takes."""


class Results:
    """Written anew after every repetition of a case, so that what was interrupted leaves what it had."""

    def __init__(
        self, path: Path, benchmark: str, asked: Mapping[str, Any], jobs: Mapping[str, Job], spec: ModelSpec
    ) -> None:
        self._path = path
        self._jobs = jobs
        self._spec = spec
        self._rates: list[Rates] = []
        self.data: dict[str, Any] = {
            "benchmark": benchmark,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "is_finished": False,
            "asked": dict(asked),
            "machine": machine_facts(),
            "versions": {GROAT: groat_versions()},
            "best_rates": {},
            "cases": [
                {"case": name, "work": _described(job), "repetitions": [], "summary": {}} for name, job in jobs.items()
            ],
        }

    def add(self, case: str, rates: Rates, sides: Mapping[str, Any]) -> None:
        """A repetition of a case. What groat reached is told anew for all of them, of the best rates by now."""
        (entry,) = (one for one in self.data["cases"] if one["case"] == case)
        self.data["versions"] |= {name: figures["versions"] for name, figures in sides.items() if "versions" in figures}
        entry["work"]["prompt_tokens"] = sides[GROAT]["prompt_tokens"]
        entry["repetitions"].append({"rates": rates.to_json(), "sides": _without_versions(sides)})
        self._rates.append(rates)
        best = best_of(self._rates)
        self.data["best_rates"] = best.to_json()
        for one in self.data["cases"]:
            if one["repetitions"]:
                one["summary"] = summary(one["repetitions"], self._jobs[one["case"]].work, self._spec, best)
        self._write()

    def finish(self) -> None:
        self.data["is_finished"] = True
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, (json.dumps(self.data, indent=1) + "\n").encode())


def summary(repetitions: Sequence[Mapping[str, Any]], work: Work, spec: ModelSpec, best: Rates) -> dict[str, Any]:
    """Medians and spreads of what was measured, and of groat against each other side, repetition by repetition."""
    rounds = [repetition["sides"] for repetition in repetitions]
    others = [name for name in rounds[0] if name != GROAT]
    return {
        "sides": {name: _spreads([sides[name] for sides in rounds]) for name in rounds[0]},
        "groat_against": {name: _spreads([_ratios(sides[GROAT], sides[name]) for sides in rounds]) for name in others},
        "shares": _spreads([shares(sides[GROAT], work, spec, best) for sides in rounds]),
    }


def _ratios(groat: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    both = [name for name in RATIOS if name in groat and name in other]
    ratios = {name: groat[name] / other[name] for name in both}
    return {RATIOS[name]: 1 / ratio if name == "step_seconds" else ratio for name, ratio in ratios.items()}


def _spreads(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the figures that are no counts: those written as floats."""
    names = [name for name, value in measured[0].items() if isinstance(value, float)]
    return {name: Spread.of([one[name] for one in measured]).to_json() for name in names}


def _described(job: Job) -> dict[str, Any]:
    work = job.work
    return {
        "num_prompts": len(work.questions),
        "group_size": work.group_size,
        "new_tokens": work.new_tokens,
        "num_measured": job.num_measured,
        "num_warm_up": job.num_warm_up,
    }


def _without_versions(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        side: {name: value for name, value in figures.items() if name != "versions"} for side, figures in sides.items()
    }
