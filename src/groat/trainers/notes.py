"""What to tell about options that take effect, but not quite as they do in TRL."""

from __future__ import annotations

from collections.abc import Iterator

from groat.trainers.config import RunOptions
from groat.trainers.steps import Steps, is_less_than_a_group
from groat.trainers.trl_options import plain
from groat.trainers.vllm_params import sampling_notes


def is_8bit(optim: str) -> bool:
    """Whether an optimizer of transformers keeps AdamW's moments in 8 bits."""
    return optim in ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")


def translation_notes(args: RunOptions, steps: Steps) -> Iterator[str]:
    """Options that take effect, but not quite as they do in TRL."""
    optim = str(plain(args.optim))
    if optim not in ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit"):
        kind = "groat's own 8-bit AdamW, which is never paged" if is_8bit(optim) else "torch's 32-bit AdamW"
        yield f"optim={optim!r}: it is {kind}; the optimizer's state of an adapter is small"
    if args.model_init_kwargs:
        yield f"model_init_kwargs={dict(args.model_init_kwargs)!r}: groat loads models in its own way, in 32 bits"
    if is_less_than_a_group(args):
        yield (
            f"per_device_train_batch_size={args.per_device_train_batch_size}: a group is sampled whole, so a step has "
            f"{steps.completions} completions, num_generations ({args.num_generations}) for each of "
            f"gradient_accumulation_steps ({args.gradient_accumulation_steps})"
        )
    completions = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if not args.counts_prompts and args.generation_batch_size not in (None, completions):
        yield (
            f"generation_batch_size={args.generation_batch_size}: all of these completions make one update, where TRL "
            "would make one for each per_device_train_batch_size x gradient_accumulation_steps of them"
        )
    if args.num_iterations > 1:
        yield (
            f"num_iterations={args.num_iterations}: {steps.total} steps of {args.num_iterations} updates each "
            f"(max_steps, save_steps, eval_steps and warmup_steps count updates, as in TRL)"
        )
    yield from sampling_notes(args.vllm_sampling_params)
    yield from _schedule_notes(args)


def _schedule_notes(args: RunOptions) -> Iterator[str]:
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
