"""Real `groat` commands on a tiny model, each in a process of its own that a test can kill or signal when it likes.

The processes are forked from a server that has imported torch, so that each starts in a fraction of a second.
"""

import json
import multiprocessing
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from groat.testing import tiny_model

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["groat.cli.train", "groat.cli.resume", "groat.training.run", "torch._dynamo"])

REWARDS = """
def letters(completions, **_):
    return [sum(map(str.isalpha, text)) / 8 for text in completions]
"""
RECIPE: dict[str, Any] = {
    "output_dir": "run",
    "model": {"name": "model"},
    "lora": {"r": 2, "lora_alpha": 4},
    "task": {"name": "rows.jsonl", "reward_funcs": ["rewards.py:letters"], "eval_fraction": 0.3},
    "sampling": {"num_generations": 4, "max_completion_length": 10},
    "training": {"max_steps": 8, "generation_batch_size": 8, "learning_rate": 1e-2, "save_steps": 2},
    "evaluation": {"num_problems": 4, "num_samples": 2, "eval_steps": 3, "num_problems_during": 2},
    "memory": {"microbatch_tokens": 64},
}


def write_recipe(folder: Path, **changes: Mapping[str, Any]) -> Path:
    """A folder with recipe.yaml, a tiny model, twelve rows and a reward function; `changes` go into the recipe's
    sections."""
    tiny_model(folder / "model")
    recipe = dict(RECIPE)
    for section, values in changes.items():
        recipe[section] = {**recipe.get(section, {}), **values}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rows = [{"prompt": f"Say something about the number {number}."} for number in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARDS)
    return folder


class Span(NamedTuple):
    """A phase: the how-manieth of its name (from 1), and the function calls made inside."""

    name: str
    occurrence: int
    calls: int


@dataclass(frozen=True)
class Ended:
    exit_code: int
    """Minus the signal that ended it, if one did."""
    output: str
    """What it printed, errors last."""
    errors: str
    spans: list[Span] = field(default_factory=list)


def groat(
    folder: Path,
    *args: str,
    trace: bool = False,
    kill_in: Span | None = None,
    signals: Mapping[tuple[str, int], tuple[signal.Signals, ...]] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Ended:
    """Run `groat ARGS` in `folder`.

    `kill_in` says in which phase it is killed with SIGKILL, after how many function calls there; `signals` are sent
    when a phase begins for the n-th time (from 1).
    """
    out, err = folder / "out.txt", folder / "err.txt"
    spans_file = folder / "spans.json"
    child = _FORKS.Process(
        target=_child,
        args=(
            folder,
            list(args),
            (out, err),
            spans_file if trace else None,
            kill_in,
            dict(signals or {}),
            dict(environment or {}),
        ),
    )
    child.start()
    child.join(timeout)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"groat {' '.join(args)} did not end:\n{out.read_text()}")
    assert child.exitcode is not None
    spans = [Span(*span) for span in json.loads(spans_file.read_text())] if trace else []
    printed, errors = out.read_text(errors="replace"), err.read_text(errors="replace")
    return Ended(child.exitcode, printed + errors, errors, spans)


def refusal(ended: Ended) -> str:
    """The one paragraph on stderr of a command that found something to put right, unwrapped."""
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    assert "\n\n" not in ended.errors
    told = " ".join(ended.errors.split())
    assert told.startswith("error: "), told
    assert ".." not in told.replace("...", ""), told
    return told


def record_of(run: Path) -> dict[str, Any]:
    """Everything a run must reproduce: weights and state as bytes, and what the database holds, without times."""
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    connection = sqlite3.connect(run / "run.sqlite")
    tables = {
        table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
        for table in ("metrics", "rollouts", "evaluations", "answers")
    }
    connection.close()
    return {
        **tables,
        "adapter": (run / "adapter" / "adapter_model.safetensors").read_bytes(),
        "checkpoint": (checkpoints[-1].name, (checkpoints[-1] / "state.safetensors").read_bytes()),
    }


def events_of(run: Path) -> list[tuple[str, str]]:
    """(kind, message) of every event."""
    connection = sqlite3.connect(run / "run.sqlite")
    events = connection.execute("SELECT kind, message FROM events ORDER BY rowid").fetchall()
    connection.close()
    return events


def _child(
    folder: Path,
    args: list[str],
    logs: tuple[Path, Path],
    spans_file: Path | None,
    kill_in: Span | None,
    signals: dict[tuple[str, int], tuple[signal.Signals, ...]],
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    from groat.cli.main import main

    watch = _Watch(kill_in, signals)
    watch.start(count_calls=spans_file is not None or kill_in is not None)
    code = main(args)
    sys.setprofile(None)
    if spans_file is not None:
        spans_file.write_text(json.dumps(watch.spans))
    sys.stdout.flush()
    sys.exit(code)


class _Watch:
    """Counts function calls, Python's and C's, and follows the phases of the run."""

    def __init__(self, kill_in: Span | None, signals: dict[tuple[str, int], tuple[signal.Signals, ...]]) -> None:
        self.spans: list[tuple[str, int, int]] = []
        self._calls = 0
        self._kill_in = kill_in
        self._kill_at: int | None = None
        self._signals = signals
        self._begun: dict[str, int] = {}
        self._inside: list[str] = []

    def start(self, *, count_calls: bool) -> None:
        from groat.training.phases import Phases

        plain = Phases.phase
        watch = self

        @contextmanager
        def watched(phases: Phases, name: str, *args: Any, **options: Any) -> Iterator[Any]:
            watch._begun[name] = watch._begun.get(name, 0) + 1
            for number in watch._signals.get((name, watch._begun[name]), ()):
                os.kill(os.getpid(), number)
            occurrence, first = watch._begun[name], watch._calls
            watch._inside.append(name)
            is_end = watch._kill_in is not None and (name, occurrence) == watch._kill_in[:2]
            if is_end:
                watch._kill_at = first + watch._kill_in[2]
            try:
                with plain(phases, name, *args, **options) as done:
                    yield done
            finally:
                if is_end:
                    # A few calls depend on the clock: where there were fewer this time, its end will do.
                    watch._kill()
                watch._inside.pop()
                watch.spans.append((name, occurrence, watch._calls - first))

        Phases.phase = watched
        if count_calls:
            sys.setprofile(self._count)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self._calls += 1
            if self._calls == self._kill_at:
                self._kill()

    def _kill(self) -> None:
        os.write(2, f"killed in {self._inside[-1]}".encode())
        os.kill(os.getpid(), signal.SIGKILL)
