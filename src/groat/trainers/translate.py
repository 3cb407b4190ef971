"""From TRL's options to a RunConfig."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from groat.config.problems import field_problem
from groat.config.tree import LoraConfig, RunConfig
from groat.trainers.config import GRPOConfig
from groat.trainers.trl_options import check_refused, option_notes, plain
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


def translate(args: GRPOConfig, model: str, lora: LoraConfig, data: Data) -> Translation:
    """UserError, with TRL's names, for everything that groat cannot follow."""
    check_refused(args)
    _check_choices(args)
    steps = _Steps(args, data.num_rows)
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
        "sampling": _sampling(args),
        "algorithm": _algorithm(args),
        "training": _training(args, steps),
        "evaluation": _evaluation(args, steps, data),
        "memory": {"budget": args.budget, "gradient_checkpointing": args.gradient_checkpointing},
    }
    if args.output_dir is not None:
        sections["output_dir"] = str(args.output_dir)
    return Translation(config=_checked(sections), notes=(*option_notes(args), *_translation_notes(args, steps)))


class _Steps:
    """TRL counts updates of the weights; groat counts steps, each with num_iterations updates."""

    def __init__(self, args: GRPOConfig, num_rows: int) -> None:
        self._per_step = args.num_iterations
        self.completions = _completions_per_step(args)
        self.per_epoch = max(1, math.ceil(num_rows * args.num_generations / self.completions))
        if args.max_steps != -1:
            _check_count("max_steps", args.max_steps)
            self.total = math.ceil(args.max_steps / self._per_step)
        elif not args.num_train_epochs > 0:
            raise UserError(f"GRPOConfig: num_train_epochs must be above 0, got {args.num_train_epochs}")
        else:
            self.total = max(1, math.ceil(num_rows * args.num_generations * args.num_train_epochs / self.completions))
        self.updates = self.total * self._per_step

    def of_updates(self, updates: float) -> int:
        """Steps that hold so many updates, at least one; below 1 it is the share of all of them."""
        share = updates * self.updates if 0 < updates < 1 else updates
        return max(1, math.ceil(share / self._per_step))

    def warmup_ratio(self, args: GRPOConfig) -> float:
        if not args.warmup_steps:
            return args.warmup_ratio
        if args.warmup_steps < 1:
            return args.warmup_steps
        ratio = args.warmup_steps / self.updates
        # Rounded so that the ratio's share of the updates is the same number again.
        while math.ceil(ratio * self.updates) > args.warmup_steps:
            ratio = math.nextafter(ratio, 0)
        return ratio


def _completions_per_step(args: GRPOConfig) -> int:
    product = ("per_device_train_batch_size", "gradient_accumulation_steps")
    for name in (*product, "num_generations", "num_iterations"):
        _check_count(name, getattr(args, name))
    if args.generation_batch_size is not None:
        _check_count("generation_batch_size", args.generation_batch_size)
    if args.steps_per_generation not in (None, args.gradient_accumulation_steps):
        raise UserError(
            f"GRPOConfig: steps_per_generation is {args.steps_per_generation}, gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps}: groat makes one update from all completions of a step (and "
            "num_iterations updates from the same ones), so give both the same value, or leave steps_per_generation out"
        )
    completions = args.per_device_train_batch_size * args.gradient_accumulation_steps
    words = " x ".join(f"{name} ({getattr(args, name)})" for name in product)
    if args.generation_batch_size is not None:
        completions, words = args.generation_batch_size, f"generation_batch_size ({args.generation_batch_size})"
    if completions % args.num_generations:
        raise UserError(
            f"GRPOConfig: {words} must be a multiple of num_generations ({args.num_generations}): every group is "
            "sampled whole"
        )
    return completions


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"GRPOConfig: {name} must be a whole number of at least 1, got {value!r}")


def _sampling(args: GRPOConfig) -> dict[str, Any]:
    section: dict[str, Any] = {
        "num_generations": args.num_generations,
        "max_completion_length": args.max_completion_length,
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
                f"GRPOConfig: generation_kwargs has {name}; groat knows {', '.join(_GENERATION_OPTIONS)} there, and "
                "temperature, top_p, top_k, min_p and repetition_penalty as options of their own"
            )
        section[_GENERATION_OPTIONS[name]] = [value] if isinstance(value, str) else value
    return section


def _algorithm(args: GRPOConfig) -> dict[str, Any]:
    names = ("beta", "num_iterations", "epsilon", "epsilon_high", "delta", "mask_truncated_completions")
    scale = {True: "group", False: "none"}.get(cast(bool, args.scale_rewards), args.scale_rewards)
    cap = args.vllm_importance_sampling_cap
    return {name: getattr(args, name) for name in names} | {
        "loss_type": plain(args.loss_type),
        "importance_sampling_level": args.importance_sampling_level,
        "scale_rewards": scale,
        "importance_sampling_correction": args.vllm_importance_sampling_correction,
        "importance_sampling_cap": args.vllm_importance_sampling_clip_max if cap is None else cap,
    }


def _training(args: GRPOConfig, steps: _Steps) -> dict[str, Any]:
    scheduler = str(plain(args.lr_scheduler_type))
    names = ("learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm")
    save_every = {"no": steps.total, "epoch": steps.per_epoch}.get(plain(args.save_strategy))
    return {name: getattr(args, name) for name in names} | {
        "max_steps": steps.total,
        "generation_batch_size": steps.completions,
        "lr_scheduler_type": _SCHEDULERS[scheduler],
        "warmup_ratio": 0.0 if scheduler == "constant" else steps.warmup_ratio(args),
        "save_steps": max(1, steps.of_updates(args.save_steps) if save_every is None else save_every),
        # None keeps all of them, and there are never more than steps.
        "save_total_limit": max(1, steps.total) if args.save_total_limit is None else args.save_total_limit,
    }


def _evaluation(args: GRPOConfig, steps: _Steps, data: Data) -> dict[str, Any]:
    samples = args.num_generations if args.num_generations_eval is None else args.num_generations_eval
    strategy = plain(args.eval_strategy)
    if strategy == "no" and not args.eval_on_start:
        return {"num_problems": 0, "num_samples": samples}
    if data.num_eval_rows is None:
        raise UserError(
            f"GRPOConfig: eval_strategy is {strategy!r}, but there is no eval_dataset: give the trainer one"
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


def _check_choices(args: GRPOConfig) -> None:
    """Options that are texts, of which only some values have an effect here."""
    scheduler, optim = str(plain(args.lr_scheduler_type)), str(plain(args.optim))
    choices = {
        "lr_scheduler_type": (scheduler, list(_SCHEDULERS)),
        "save_strategy": (str(plain(args.save_strategy)), ["steps", "epoch", "no"]),
        "eval_strategy": (str(plain(args.eval_strategy)), ["steps", "epoch", "no"]),
        "vllm_importance_sampling_mode": (args.vllm_importance_sampling_mode, ["sequence_mask", "token_truncate"]),
    }
    problems = [
        f"{name} is {value!r}: groat knows {', '.join(known)}"
        for name, (value, known) in choices.items()
        if value not in known
    ]
    if not optim.removeprefix("paged_").startswith("adamw"):
        problems.append(f"optim is {optim!r}: groat trains with AdamW; leave it out, or say adamw_torch_fused")
    trackers = [args.report_to] if isinstance(args.report_to, str) else list(args.report_to or [])
    if set(trackers) - {"none"}:
        problems.append(
            f"report_to is {args.report_to!r}: groat records runs in their own folder; say 'none', and report from a "
            "callback's on_log, which gets the figures of every step"
        )
    unknown = sorted(set(args.model_init_kwargs or {}) - _HARMLESS_MODEL_OPTIONS)
    if unknown:
        problems.append(f"model_init_kwargs has {', '.join(unknown)}: groat loads models in its own way; leave it out")
    if problems:
        raise UserError("GRPOConfig: " + "; ".join(problems))


def _translation_notes(args: GRPOConfig, steps: _Steps) -> Iterator[str]:
    """Options that take effect, but not quite as they do in TRL."""
    optim = str(plain(args.optim))
    if optim not in ("adamw_torch", "adamw_torch_fused"):
        yield f"optim={optim!r}: it is torch's 32-bit AdamW; the optimizer's state of an adapter is small"
    if args.model_init_kwargs:
        yield f"model_init_kwargs={dict(args.model_init_kwargs)!r}: groat loads models in its own way, in 32 bits"
    if args.generation_batch_size not in (None, args.per_device_train_batch_size * args.gradient_accumulation_steps):
        yield (
            f"generation_batch_size={args.generation_batch_size}: all of these completions make one update, where TRL "
            "would make one for each per_device_train_batch_size x gradient_accumulation_steps of them"
        )
    if args.num_iterations > 1:
        yield (
            f"num_iterations={args.num_iterations}: {steps.total} steps of {args.num_iterations} updates each "
            f"(max_steps, save_steps, eval_steps and warmup_steps count updates, as in TRL)"
        )
    if args.beta and args.use_bias_correction_kl:
        yield "use_bias_correction_kl=True: the KL term is the paper's, which is TRL's use_bias_correction_kl=False"
    if not args.beta and not args.use_bias_correction_kl:
        yield "use_bias_correction_kl=False: there is no KL term, as beta is 0"
    if args.loss_type == "cispo" and args.epsilon_high is None:
        yield "loss_type='cispo': the ratio is capped at the paper's 5, not at TRL's epsilon; epsilon_high sets it"
    if args.loss_type == "bnpo":
        yield "loss_type='bnpo': tokens are counted over the whole step, so it is the same as 'dapo'"
    yield from _schedule_notes(args)


def _schedule_notes(args: GRPOConfig) -> Iterator[str]:
    if plain(args.lr_scheduler_type) == "constant" and (args.warmup_steps or args.warmup_ratio):
        yield "lr_scheduler_type='constant' has no warmup, as in transformers: say constant_with_warmup"
    elif args.warmup_steps and args.warmup_ratio:
        yield f"warmup_ratio={args.warmup_ratio}: warmup_steps decides, as in transformers"
    if plain(args.save_strategy) == "no":
        yield "save_strategy='no': one checkpoint is written at the end, and one if the run is stopped"
    if plain(args.eval_strategy) != "steps" and args.eval_steps is not None:
        yield f"eval_steps={args.eval_steps}: eval_strategy is {plain(args.eval_strategy)!r}, so it has no effect"
    if args.eval_on_start or plain(args.eval_strategy) != "no":
        yield "evaluation: held-out rows are judged before and after training too; an answer counts as right where " + (
            "the first reward function gives 1 or more"
        )


def _checked(sections: Mapping[str, Any]) -> RunConfig:
    try:
        text = json.dumps(sections, default=_plain_number)
        return TypeAdapter(RunConfig).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError("GRPOConfig: " + "; ".join(field_problem(record) for record in error.errors())) from None
    except TypeError as error:
        raise UserError(f"GRPOConfig: {error}") from None


def _plain_number(value: Any) -> Any:
    """The Python value of a numpy or torch scalar."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}; options are numbers, texts, true or false")
