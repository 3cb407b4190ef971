"""How the memory of a run is spent, before anything is loaded: planned, and measured first where the plan needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from groat.config.tree import RunConfig
from groat.kernels.native import choose_kernels
from groat.memory.allocator import return_freed_memory, trim
from groat.memory.dynamic import Known
from groat.memory.kept import kept_storage, kept_way
from groat.memory.measure import resident_bytes
from groat.memory.plan import MemoryPlan, plan_for_machine
from groat.memory.sensitivities import Sensitivities, known_sensitivities, read_sensitivities
from groat.memory.sizes import FRAMEWORK_LATER
from groat.memory.workload import Workload
from groat.model.fingerprint import fingerprint
from groat.model.locate import model_folder, read_spec, storage_of_checkpoint
from groat.model.spec import ModelSpec
from groat.model.tokenizer import Tokenizer, read_tokenizer
from groat.quantization.measure import measure_and_keep
from groat.tasks.task import Task
from groat.tracking.console import Console
from groat.tracking.folder import RunFolder
from groat.training.lessons import Lessons, read_lessons
from groat.training.phases import Phases, Stopped
from groat.training.workload import workload

_STEP = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided for a run."""

    folder: Path
    """Of the model."""
    tokenizer: Tokenizer
    lessons: Lessons
    work: Workload
    plan: MemoryPlan
    sensitivities: Sensitivities | None
    """What dynamic storage was chosen by, and rounds by."""


def decide(
    config: RunConfig,
    task: Task,
    phases: Phases,
    run: RunFolder | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Decision:
    """The plan of a run. One that was begun in `run` keeps its storage, and what its weights were rounded by."""
    return_freed_memory(sparing=config.memory.budget is not None)
    folder = model_folder(config.model.name)
    spec = read_spec(folder)
    kept = None if run is None else kept_storage(run.plan_path, spec)
    if run is not None and kept is not None and kept.calibrated:
        sensitivities = read_sensitivities(run.sensitivities_path, spec, fingerprint(folder))
    elif config.memory.storage == "dynamic" or (config.memory.storage is None and config.memory.budget is not None):
        sensitivities = known_sensitivities(config.memory, spec, folder)
    else:
        sensitivities = None
    tokenizer = read_tokenizer(config.model, folder)
    lessons = read_lessons(config, tokenizer, spec.max_context)
    trim()
    work = workload(config, task, tokenizer, _rounded_up(resident_bytes() + FRAMEWORK_LATER), lessons)
    found = storage_of_checkpoint(folder)
    way = None if run is None else kept_way(run.plan_path)
    plan = plan_for_machine(config, spec, work, Known(sensitivities=sensitivities, kept=kept, way=way, found=found))
    if plan.measures_for is not None:
        sensitivities = _measured(config, spec, folder, plan, phases, note)
        # What was held while measuring stays part of what is predicted for this process.
        measuring = {"MEASURE": plan.phases["MEASURE"]}
        plan = plan_for_machine(config, spec, work, Known(sensitivities=sensitivities))
        plan = replace(plan, phases={**measuring, **plan.phases})
    return_freed_memory(sparing=plan.is_sparing)
    return Decision(
        folder=folder,
        tokenizer=tokenizer,
        lessons=lessons,
        work=work,
        plan=plan,
        sensitivities=sensitivities if plan.storage.calibrated else None,
    )


def _rounded_up(num_bytes: int) -> int:
    """What a process holds differs a little each time; its plan had better not."""
    return -(-num_bytes // _STEP) * _STEP


def decide_quietly(config: RunConfig, task: Task) -> Decision:
    """For work that nobody watches."""
    return decide(config, task, Phases(Console(quiet=True)))


def _measured(
    config: RunConfig, spec: ModelSpec, folder: Path, plan: MemoryPlan, phases: Phases, note: Callable[[str], None]
) -> Sensitivities:
    assert plan.measures_for is not None
    note(
        f"Dynamic storage: measuring once which matrices of {config.model.name} can do with 4 bits, about "
        f"{max(1, round(plan.measures_for / 60))} min; kept for later runs"
    )
    choose_kernels(config.model.kernels)
    try:
        with phases.phase("measure", 5 * spec.num_layers, "pieces", interruptible=True) as done:
            return measure_and_keep(folder, spec, model=config.model.name, done=lambda: done(1))
    except Stopped:
        # Nothing is trained yet that could be saved.
        raise KeyboardInterrupt from None
