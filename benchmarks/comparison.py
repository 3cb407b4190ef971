"""The sides do each case's work in turn, again and again, and the results are written down after every round."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.job import Job
from benchmarks.options import Ground
from benchmarks.rates import Rates
from benchmarks.report import report, side_words
from benchmarks.results import Results
from benchmarks.sides import GROAT, Side, last_line
from groat.model.spec import ModelSpec
from groat.types import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One piece of work and who does it, groat among them."""

    name: str
    job: Job
    sides: Sequence[Side]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is measured, how often, and where the results go."""

    benchmark: str
    cases: Sequence[Case]
    num_repetitions: int
    spec: ModelSpec
    is_small: bool
    asked: Mapping[str, Any]
    """For the results: what was asked for, without paths."""
    path: Path

    @classmethod
    def of(cls, ground: Ground, benchmark: str, name: str, cases: Sequence[Case]) -> Comparison:
        """Of these cases, as the options say; `name` is that of the file."""
        asked = ground.asked()
        return cls(
            benchmark=benchmark,
            cases=cases,
            num_repetitions=asked["repetitions"],
            spec=ground.spec,
            is_small=ground.options.small,
            asked=asked,
            path=ground.path(name),
        )

    def run(self) -> None:
        jobs = {case.name: case.job for case in self.cases}
        results = Results(self.path, self.benchmark, self.asked, jobs, self.spec)
        for repetition in range(self.num_repetitions):
            for case in self.cases:
                self._repeat(case, repetition, results)
        results.finish()
        print("\n".join(["", *report(results.data), f"written to {self.path}"]))

    def _repeat(self, case: Case, repetition: int, results: Results) -> None:
        """The rates of the machine, then every side; every second time the other way round."""
        where = f"[{repetition + 1}/{self.num_repetitions}] {case.name}"
        rates = Rates.from_json(self._told(f"{where}: rates of the machine", self._measure_rates))
        figures: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            job_file = Path(folder) / "job.json"
            case.job.write(job_file)
            for side in case.sides if repetition % 2 == 0 else reversed(case.sides):
                figures[side.name] = self._told(f"{where}: {side.name}", lambda side=side: side.figures(job_file))
        in_order = {side.name: figures[side.name] for side in case.sides}
        check_same_prompts(in_order)
        results.add(case.name, rates, in_order)

    def _measure_rates(self) -> dict[str, Any]:
        small = ["--small"] if self.is_small else []
        return last_line("rates", [sys.executable, "-m", "benchmarks.rates", *small])

    def _told(self, what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        print(f"{what} ...", end=" ", flush=True)
        started = time.perf_counter()
        figures = measure()
        words = side_words(figures) or _rate_words(Rates.from_json(figures))
        print(f"{words} ({time.perf_counter() - started:.0f} s in all)", flush=True)
        for intervention in figures.get("interventions", ()):
            print(f"    memory was short: {intervention}", flush=True)
        return figures


def check_same_prompts(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Every side must have read the same prompts: their tokenizers and templates are not ours to trust."""
    lengths = figures[GROAT]["prompt_tokens"]
    for name, found in figures.items():
        if found["prompt_tokens"] != lengths:
            raise UserError(f"prompts of groat have {lengths} tokens, and those of {name} {found['prompt_tokens']}")


def _rate_words(rates: Rates) -> str:
    products = [f"{kind} products {rate / 1e9:.0f} GFLOP/s" for kind, rate in rates.products.items()]
    size, rate = rates.reading[-1]
    return ", ".join([f"{size // 2**20} MiB read at {rate / 1e9:.1f} GB/s", *products])
