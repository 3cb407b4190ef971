"""A run: build the parts, learn worked examples, train step by step, and leave everything in one folder."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from groat.config.load import read_yaml, to_yaml
from groat.config.tree import RunConfig
from groat.tasks.task import Task, build_task
from groat.tracking.bridges import BridgedRun, Bridges, check_trackers
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder, numbered_output_dir, write_atomically
from groat.tracking.lock import RunLock
from groat.tracking.store import RunStore
from groat.training.build import build
from groat.training.decide import decide
from groat.training.ending import Summary, end
from groat.training.phases import Phases, Stopped
from groat.training.priming import Priming
from groat.training.reinforcement import OnStep, Reinforcement
from groat.training.under_way import RunUnderWay
from groat.types import UserError


def train(
    config: RunConfig,
    console: Console,
    task: Task | None = None,
    on_step: OnStep = lambda _, __: None,
    *,
    only_prime: bool = False,
) -> Summary:
    """Start a run in a new folder. `task` replaces the configured one (the Python API's datasets and functions).

    `only_prime` stops it behind the cold start; `resume` goes on with reinforcement learning.
    """
    if only_prime and config.cold_start.examples is None:
        raise UserError("there is nothing to prime with: name a file of worked examples in cold_start.examples")
    path = numbered_output_dir(config.output_dir, config.model.name, config.task.name)
    config = replace(config, output_dir=str(path))
    check_trackers(config.track.report_to)
    folder = RunFolder.create(path)
    with RunLock(folder.path):
        write_atomically(folder.config_path, to_yaml(config).encode())
        try:
            return _run(config, folder, console, task, on_step, only_prime=only_prime)
        except UserError:
            if not folder.store_path.exists():
                _clear_away(folder)
            raise


def resume(
    run_folder: Path,
    console: Console,
    max_steps: int | None = None,
    task: Task | None = None,
    on_step: OnStep = lambda _, __: None,
) -> Summary:
    """Go on with a run from its newest complete checkpoint, bit for bit as if it had never stopped."""
    folder = RunFolder.open(run_folder)
    with RunLock(folder.path):
        config = replace(read_yaml(folder.config_path), output_dir=str(run_folder))
        if max_steps is not None:
            config = replace(config, training=replace(config.training, max_steps=max_steps))
        return _run(config, folder, console, task, on_step)


def _run(
    config: RunConfig,
    folder: RunFolder,
    console: Console,
    task: Task | None,
    on_step: OnStep,
    *,
    only_prime: bool = False,
) -> Summary:
    phases = Phases(console)
    bridges = Bridges(config.track.report_to)
    with phases.stopping_on_signals():
        task = build_task(config.task, config.seed) if task is None else task
        decision = decide(config, task, phases, folder, console.note)
        with phases.phase("load"):
            built = build(config, task, decision)
            # What `auto` has come to holds for the whole run, wherever it goes on.
            found = {"compute": built.model.compute, "kv_cache": built.model.kv_storage}
            config = replace(config, model=replace(config.model, **found))
        with RunStore(folder.store_path) as store:
            run = RunUnderWay(config, folder, console, phases, store, built, bridges)
            priming, reinforcement = Priming(run), Reinforcement(run, on_step)
            try:
                run.restore()
                priming.check_examples()
                run.adopt_config()
                reinforcement.recall()
                bridges.begin(_bridged(config, folder, run.step))
                with suppress(Stopped):
                    run.announce()
                    run.check_canary()
                    priming.prime()
                    if not only_prime:
                        reinforcement.train()
                run.save()
                return end(run)
            except UserError as error:
                raise type(error)(run.last_words(error)) from error
            finally:
                bridges.end(finished=run.step >= config.training.max_steps)
                built.close()


def _bridged(config: RunConfig, folder: RunFolder, step: int) -> BridgedRun:
    return BridgedRun(
        folder=folder.path,
        project=config.track.project,
        name=config.track.run_name or folder.path.name,
        config=asdict(config),
        first_step=step,
    )


def _clear_away(folder: RunFolder) -> None:
    """Nothing was begun: leave the name free for the corrected recipe."""
    with suppress(OSError):
        folder.config_path.unlink(missing_ok=True)
        (folder.path / "run.lock").unlink()
        folder.checkpoints.rmdir()
        folder.path.rmdir()
