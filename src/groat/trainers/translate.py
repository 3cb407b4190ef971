"""From TRL's options to a RunConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from groat.config.problems import field_problem
from groat.config.tree import LoraConfig, RunConfig, Tracker
from groat.trainers.algorithm_options import algorithm_notes, algorithm_problems, algorithm_section
from groat.trainers.config import RunOptions
from groat.trainers.notes import is_8bit, translation_notes
from groat.trainers.steps import Steps
from groat.trainers.trl_options import check_refused, option_notes, plain
from groat.trainers.vllm_params import sampling_asked
from groat.types import UserError

_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}
_HARMLESS_MODEL_OPTIONS = {
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "device_map",
    "use_cache",
    "low_cpu_mem_usage",
}
_GENERATION_OPTIONS = {
    "stop": "stop",
    "stop_strings": "stop",
    "min_new_tokens": "min_completion_length",
    "min_tokens": "min_completion_length",
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the translation has to know about the rows and rewards."""

    task_name: str
    num_rows: int
    num_eval_rows: int | None
    """None: no evaluation rows were given."""
    reward_names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """The run that was asked for, and what to tell about options that work in another way than they do in TRL."""

    config: RunConfig
    notes: tuple[str, ...]


def translate(args: RunOptions, model: str, lora: LoraConfig, data: Data) -> Translation:
    """UserError, with TRL's names, for everything that groat cannot follow."""
    check_refused(args)
    _check_choices(args)
    steps = Steps(args, data.num_rows)
    sections: dict[str, Any] = {
        "seed": args.seed,
        "model": {"name": model, "chat_template": args.chat_template},
        "lora": {"r": lora.r, "lora_alpha": lora.lora_alpha},
        "task": {
            "name": data.task_name,
            "reward_funcs": list(data.reward_names),
            "reward_weights": None
            if args.reward_weights is None
            else [float(weight) for weight in args.reward_weights],
            "reward_timeout_seconds": args.reward_timeout_seconds,
        },
        "cold_start": _cold_start(args),
        "sampling": _sampling(args),
        "algorithm": algorithm_section(args),
        "training": _training(args, steps),
        "evaluation": _evaluation(args, steps, data),
        "memory": {"budget": args.budget, "gradient_checkpointing": args.gradient_checkpointing},
    }
    sections["track"] = {"report_to": _trackers(args), "project": args.project, "run_name": args.run_name}
    if args.output_dir is not None:
        sections["output_dir"] = str(args.output_dir)
    notes = (*option_notes(args), *translation_notes(args, steps), *algorithm_notes(args))
    return Translation(config=_checked(sections, type(args).__name__), notes=notes)


def _cold_start(args: RunOptions) -> dict[str, Any]:
    given = args.cold_start
    if given is None:
        return {}
    section = dict(given) if isinstance(given, Mapping) else {"examples": given}
    if section.get("examples") is None:
        raise UserError(
            f"{type(args).__name__}: cold_start has no `examples`: name the file of worked examples there, such as "
            '{"examples": "worked.jsonl"}'
        )
    return section | {"examples": str(section["examples"])}


def _sampling(args: RunOptions) -> dict[str, Any]:
    section: dict[str, Any] = {
        "num_generations": args.num_generations,
        "max_completion_length": getattr(args, args.length_option),
        "temperature": args.temperature,
        "top_p": args.top_p,
        # Both were ways to say "all" once.
        "top_k": 0 if args.top_k in (None, -1) else args.top_k,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
    }
    for name, value in dict(args.generation_kwargs or {}).items():
        if name not in _GENERATION_OPTIONS:
            raise UserError(
                f"{type(args).__name__}: generation_kwargs has {name}; groat knows {', '.join(_GENERATION_OPTIONS)} "
                "there, and temperature, top_p, top_k, min_p and repetition_penalty as options of their own"
            )
        section[_GENERATION_OPTIONS[name]] = [value] if isinstance(value, str) else value
    return section | sampling_asked(args.vllm_sampling_params)


def _training(args: RunOptions, steps: Steps) -> dict[str, Any]:
    scheduler = str(plain(args.lr_scheduler_type))
    names = ("learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm")
    save_every = {"no": steps.total, "epoch": steps.per_epoch}.get(plain(args.save_strategy))
    return {name: getattr(args, name) for name in names} | {
        "max_steps": steps.total,
        "generation_batch_size": steps.completions,
        "optim": "adamw_8bit" if is_8bit(str(plain(args.optim))) else "adamw_torch_fused",
        "lr_scheduler_type": _SCHEDULERS[scheduler],
        "warmup_ratio": 0.0 if scheduler == "constant" else steps.warmup_ratio(args),
        "save_steps": max(1, steps.of_updates(args.save_steps) if save_every is None else save_every),
        # None keeps all of them, and there are never more than steps.
        "save_total_limit": max(1, steps.total) if args.save_total_limit is None else args.save_total_limit,
    }


def _evaluation(args: RunOptions, steps: Steps, data: Data) -> dict[str, Any]:
    samples = args.num_generations if args.num_generations_eval is None else args.num_generations_eval
    strategy = plain(args.eval_strategy)
    if strategy == "no" and not args.eval_on_start:
        return {"num_problems": 0, "num_samples": samples}
    if data.num_eval_rows is None:
        raise UserError(
            f"{type(args).__name__}: eval_strategy is {strategy!r}, but there is no eval_dataset: give the trainer one"
        )
    every = {
        "no": 0,
        "epoch": steps.per_epoch,
        "steps": steps.of_updates(args.logging_steps if args.eval_steps is None else args.eval_steps),
    }
    num_problems = data.num_eval_rows
    return {
        "num_problems": num_problems,
        "num_problems_during": num_problems,
        "num_samples": samples,
        "eval_steps": every[strategy],
    }


def _check_choices(args: RunOptions) -> None:
    """Options that are texts, of which only some values have an effect here."""
    scheduler, optim = str(plain(args.lr_scheduler_type)), str(plain(args.optim))
    choices = {
        "lr_scheduler_type": (scheduler, list(_SCHEDULERS)),
        "save_strategy": (str(plain(args.save_strategy)), ["steps", "epoch", "no"]),
        "eval_strategy": (str(plain(args.eval_strategy)), ["steps", "epoch", "no"]),
    }
    problems = [
        f"{name} is {value!r}: groat knows {', '.join(known)}"
        for name, (value, known) in choices.items()
        if value not in known
    ]
    problems.extend(algorithm_problems(args))
    if not optim.removeprefix("paged_").startswith("adamw"):
        problems.append(f"optim is {optim!r}: groat trains with AdamW; leave it out, or say adamw_torch_fused")
    unknown = sorted(set(_trackers(args)) - set(get_args(Tracker)))
    if unknown:
        problems.append(
            f"report_to is {args.report_to!r}: groat reports to {', '.join(get_args(Tracker))} or 'none'; for others, "
            "report from a callback's on_log, which gets the figures of every step"
        )
    unknown = sorted(set(args.model_init_kwargs or {}) - _HARMLESS_MODEL_OPTIONS)
    if unknown:
        problems.append(f"model_init_kwargs has {', '.join(unknown)}: groat loads models in its own way; leave it out")
    if problems:
        raise UserError(f"{type(args).__name__}: " + "; ".join(problems))


def _trackers(args: RunOptions) -> list[str]:
    given = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or [])
    return [name for name in given if name != "none"]


def _checked(sections: Mapping[str, Any], options: str) -> RunConfig:
    try:
        text = json.dumps(sections, default=_plain_number)
        return TypeAdapter(RunConfig).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError(f"{options}: " + "; ".join(field_problem(record) for record in error.errors())) from None
    except TypeError as error:
        raise UserError(f"{options}: {error}") from None


def _plain_number(value: Any) -> Any:
    """The Python value of a numpy or torch scalar."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}; options are numbers, texts, true or false")
