"""`groat plan [RECIPE] [flags]`: what a run would hold in memory, phase by phase, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping

from groat.cli.train import read_recipe
from groat.config.load import from_command_line
from groat.config.sizes import parse_size
from groat.config.tree import RunConfig
from groat.memory.dynamic import Known
from groat.memory.measure import resident_bytes
from groat.memory.plan import MemoryPlan, plan_memory, smallest_budget
from groat.memory.sensitivities import known_sensitivities
from groat.memory.sizes import FRAMEWORK, TOKENIZER_SHARE

_GIB = 2**30
_DESCRIPTION = """\
groat plan [RECIPE] [flags of `groat train`] [--json]

What a run would hold in memory, phase by phase, and what was chosen so that it
fits the budget; nothing is loaded or trained. RECIPE comes first; without one,
the preset demo.
"""


def plan_command(args: list[str]) -> None:
    as_json = "--json" in args
    args = [arg for arg in args if arg != "--json"]
    recipe = args.pop(0) if args and not args[0].startswith("-") else "demo"
    config = from_command_line(args, read_recipe(recipe), "groat plan", _DESCRIPTION)

    from groat.model.locate import model_folder, read_spec, storage_of_checkpoint
    from groat.model.tokenizer import read_tokenizer
    from groat.tasks.task import build_task
    from groat.training.lessons import read_lessons
    from groat.training.workload import workload

    before = resident_bytes()
    task = build_task(config.task, config.seed)
    task_bytes = resident_bytes() - before
    folder = model_folder(config.model.name)
    spec, tokenizer = read_spec(folder), read_tokenizer(config.model, folder)
    process_bytes = FRAMEWORK + task_bytes + round(TOKENIZER_SHARE * tokenizer.num_bytes)
    work = workload(config, task, tokenizer, process_bytes, read_lessons(config, tokenizer, spec.max_context))
    sensitivities = known_sensitivities(config.memory, spec, folder)
    known = Known(sensitivities=sensitivities, found=storage_of_checkpoint(folder))
    plan, smallest = plan_memory(config, spec, work, known), smallest_budget(config, spec, work, known)
    print(json.dumps(_figures(config, plan, smallest)) if as_json else _page(config, plan, smallest))


def _figures(config: RunConfig, plan: MemoryPlan, smallest: int) -> dict[str, object]:
    budget = config.memory.budget
    return {
        "budget_gib": None if budget is None else round(parse_size(budget) / _GIB, 3),
        "peak_gib": round(plan.peak_bytes / _GIB, 3),
        "phases": {
            phase: {name: round(size / _GIB, 4) for name, size in components.items()}
            for phase, components in plan.phases.items()
        },
        "choices": plan.choices,
        "smallest_budget_gib": round(smallest / _GIB, 3),
    }


def _page(config: RunConfig, plan: MemoryPlan, smallest: int) -> str:
    lines = [
        f"{config.model.name}, LoRA r={config.lora.r}, completions of {config.sampling.max_completion_length} tokens"
    ]
    lines += ["", *_table(plan.phases), ""]
    lines += [f"{name:<24}{choice}" for name, choice in plan.choices.items()]
    asked = "no budget asked for" if config.memory.budget is None else f"of the {config.memory.budget} asked for"
    lines += ["", f"peak {plan.peak_bytes / _GIB:.2f} GiB, {asked}; the smallest possible is {smallest / _GIB:.2f} GiB"]
    return "\n".join(lines)


def _table(phases: Mapping[str, Mapping[str, int]]) -> list[str]:
    """MiB by component and phase."""
    names = list(dict.fromkeys(name for components in phases.values() for name in components))
    rows = [("MiB", *phases)]
    rows += [(name, *(_mebibytes(parts.get(name, 0)) for parts in phases.values())) for name in names]
    rows.append(("together", *(_mebibytes(sum(parts.values())) for parts in phases.values())))
    return ["".join([f"{row[0]:<16}", *(f"{cell:>10}" for cell in row[1:])]) for row in rows]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f}" if size else "-"
