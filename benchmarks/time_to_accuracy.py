"""Seconds of training until a held-out accuracy: groat and TRL train the same model on the same problems, once.

The demo's recipe, on SmolLM2-135M-Instruct: 24 steps of 8 problems x 8 answers, LoRA r=16 on all linear layers. Both
start from the same adapter, get the same problems in the same order and groat's own rewards, and differ in the
numbers they draw. Only steps are timed. Afterwards groat evaluates every adapter that either has saved, in float32, on
200 held-out problems that neither has seen.

The first saved adapter at or above --target counts: nothing is read off between two of them.

  python -m benchmarks.time_to_accuracy --peer .peers/bin/python
  python -m benchmarks.time_to_accuracy --peer .peers/bin/python --reuse --target 0.45
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.accuracy_results import AccuracyResults, accuracy_report
from benchmarks.comparison import check_same_prompts
from benchmarks.curves import Point
from benchmarks.held_out import HeldOut
from benchmarks.machine import REPOSITORY
from benchmarks.options import Ground, ground, model_parser, run
from benchmarks.sides import GROAT, PEER_SCRIPTS, records, run_process
from benchmarks.training_work import TrainingWork
from groat.cli.bench import fastest_numbers
from groat.config.load import read_yaml
from groat.config.tree import MemoryConfig, ModelConfig, RunConfig
from groat.types import UserError

TRL = "TRL"
_MICRO_BATCH = 8


def main(args: Sequence[str]) -> None:
    with ground(_parser().parse_args(args)) as found:
        options, path = found.options, found.path(_name(found.options.storage))
        work = TrainingWork(folder=options.work / path.stem, config=recipe(found), every=found.size("every", 4, 1))
        work.write(found.spec)
        results = AccuracyResults(path, work, options.target, reuse=options.reuse)
        commands = _commands(found, work)
        for side, (settings, command) in commands.items():
            if results.begin(side, settings):
                _train(side, command, work, results)
        _evaluate(list(commands), work, results)
        results.finish()
        print("\n".join(["", *accuracy_report(results.data), f"written to {results.path}"]))
        _draw(results.path)


def recipe(found: Ground) -> RunConfig:
    """The demo's, with what the options change."""
    options = found.options
    config = read_yaml(REPOSITORY / "recipes" / "arithmetic.yaml")
    storage, compute = fastest_numbers(options.storage, options.compute)
    config = replace(
        config,
        model=ModelConfig(name=found.model, compute=compute),
        memory=MemoryConfig(storage=storage, budget=options.budget),
        training=replace(config.training, max_steps=found.size("steps", config.training.max_steps, 2)),
    )
    return _small(config) if options.small else config


def _small(config: RunConfig) -> RunConfig:
    """For a model of 512 tokens, one for every byte."""
    return replace(
        config,
        task=replace(config.task, num_examples=0),
        sampling=replace(config.sampling, num_generations=4, max_completion_length=6),
        training=replace(config.training, generation_batch_size=8),
        evaluation=replace(config.evaluation, num_problems=4),
    )


def _parser() -> argparse.ArgumentParser:
    parser = model_parser("time_to_accuracy", __doc__, "Each side trains once,\nin a process of its own.")
    parser.set_defaults(storage="f32")
    parser.add_argument("--target", type=float, default=0.40, help="of avg@4, a share of answers (default 0.40)")
    parser.add_argument("--steps", type=int, help="of each training (default 24)")
    parser.add_argument("--every", type=int, help="steps between adapters that are saved and evaluated (default 4)")
    parser.add_argument(
        "--reuse", action="store_true", help="keep what the file of results has of sides that have finished"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="TRL with gradient checkpointing: less memory, more time"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=REPOSITORY / "runs",
        metavar="FOLDER",
        help="for a folder of problems and adapters, called as the results are (default: runs)",
    )
    return parser


def _name(storage: str) -> str:
    return "time-to-accuracy" + ("" if storage == "f32" else f"-{storage}")


def _commands(found: Ground, work: TrainingWork) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """By side, what is told of it in the results, and how it is started."""
    folder, config = str(work.folder.absolute()), work.config
    settings = {"storage": config.memory.storage, "compute": config.model.compute, "budget": config.memory.budget}
    commands = {GROAT: (settings, [sys.executable, "-m", "benchmarks.groat_training", folder])}
    if found.peers.transformers_python:
        micro_batch = math.gcd(config.training.generation_batch_size, _MICRO_BATCH)
        settings = {"storage": "f32", "checkpointing": found.options.checkpointing, "micro_batch": micro_batch}
        script = [found.peers.transformers_python, str(PEER_SCRIPTS / "trl_training.py")]
        rewards = [sys.executable, "-m", "benchmarks.reward_worker", folder]
        commands[TRL] = (settings, [*script, str(found.peers.hf_folder), folder, json.dumps(settings), *rewards])
    return commands


def _train(side: str, command: Sequence[str], work: TrainingWork, results: AccuracyResults) -> None:
    """A whole training; the results have every step as soon as it is done."""
    print(f"{side}: loading ...", flush=True)
    with closing(records(side, command)) as told:
        for record in told:
            if "step" in record:
                _add_step(side, record, work, results)
            else:
                results.add_facts(side, record)
                check_same_prompts({name: results.facts(name) for name in (GROAT, side)})
    results.trained(side)


def _add_step(side: str, record: dict[str, Any], work: TrainingWork, results: AccuracyResults) -> None:
    _check_problems(side, record, work)
    results.add_step(side, record)
    print(f"{side}: step {record['step']}, {record['seconds']:.1f} s, reward {record['reward']:.3f}", flush=True)


def _check_problems(side: str, record: dict[str, Any], work: TrainingWork) -> None:
    expected = [problem.id for problem in work.problems[record["step"] - 1]]
    if record["problem_ids"] != expected:
        raise UserError(
            f"{side}'s step {record['step']} was on problems {record['problem_ids']}, and should be on {expected}"
        )


def _evaluate(sides: Sequence[str], work: TrainingWork, results: AccuracyResults) -> None:
    """Every saved adapter that has not been evaluated yet; the first one, which all sides have, only once."""
    missing = [(side, steps) for side in sides for steps in results.steps_without_figures(side)]
    if not missing:
        return
    print("evaluating: loading ...", flush=True)
    held_out = HeldOut(work.config)
    for side, steps in missing:
        figures = results.figures_at_start() if steps == 0 else None
        figures = figures or held_out.figures(work.adapter(side, steps))
        results.add_point(side, Point.after(steps, results.step_seconds(side), figures))
        words = ", ".join(f"{name} {figure.value:.1%}" for name, figure in figures.items())
        print(f"{side}: after {steps} steps {words}", flush=True)


def _draw(results: Path) -> None:
    """The curves, beside the results, where there is something to draw them with."""
    script, target = Path(__file__).with_name("plot_curves.py"), results.with_suffix(".svg")
    if find_spec("matplotlib") is None:
        print(f"the curves were not drawn, as matplotlib is not installed: python {script.name} RESULTS SVG does that")
        return
    run_process("drawing the curves", [sys.executable, str(script), str(results.absolute()), str(target.absolute())])
    print(f"drawn in {target}")


if __name__ == "__main__":
    run(main)
