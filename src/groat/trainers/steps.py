"""How many steps, of how many completions: TRL's batch sizes, epochs and updates in groat's units."""

from __future__ import annotations

import math

from groat.trainers.config import RunOptions
from groat.types import UserError


class Steps:
    """TRL counts updates of the weights; groat counts steps, each with num_iterations updates."""

    def __init__(self, args: RunOptions, num_rows: int) -> None:
        self._per_step = args.num_iterations
        self.completions = _completions_per_step(args)
        self.per_epoch = max(1, math.ceil(num_rows * args.num_generations / self.completions))
        if args.max_steps != -1:
            _check_count(args, "max_steps")
            self.total = math.ceil(args.max_steps / self._per_step)
        elif args.num_completions is not None:
            _check_count(args, "total_episodes")
            self.total = math.ceil(args.num_completions / self.completions)
        elif not args.num_train_epochs > 0:
            raise UserError(f"{type(args).__name__}: num_train_epochs must be above 0, got {args.num_train_epochs}")
        else:
            self.total = max(1, math.ceil(num_rows * args.num_generations * args.num_train_epochs / self.completions))
        self.updates = self.total * self._per_step

    def of_updates(self, updates: float) -> int:
        """Steps that hold so many updates, at least one; below 1 it is the share of all of them."""
        share = updates * self.updates if 0 < updates < 1 else updates
        return max(1, math.ceil(share / self._per_step))

    def warmup_ratio(self, args: RunOptions) -> float:
        if not args.warmup_steps:
            return args.warmup_ratio
        if args.warmup_steps < 1:
            return args.warmup_steps
        ratio = args.warmup_steps / self.updates
        # Rounded so that the ratio's share of the updates is the same number again.
        while math.ceil(ratio * self.updates) > args.warmup_steps:
            ratio = math.nextafter(ratio, 0)
        return ratio


def _completions_per_step(args: RunOptions) -> int:
    product = ("per_device_train_batch_size", "gradient_accumulation_steps")
    for name in (*product, "num_generations", "num_iterations"):
        _check_count(args, name)
    if args.generation_batch_size is not None:
        _check_count(args, "generation_batch_size")
    if args.steps_per_generation not in (None, args.gradient_accumulation_steps):
        raise UserError(
            f"{type(args).__name__}: steps_per_generation is {args.steps_per_generation}, gradient_accumulation_steps "
            f"{args.gradient_accumulation_steps}: groat makes one update from all completions of a step (and "
            "num_iterations updates from the same ones), so give both the same value, or leave steps_per_generation out"
        )
    if args.generation_batch_size is not None:
        if args.generation_batch_size % args.num_generations:
            raise UserError(
                f"{type(args).__name__}: generation_batch_size ({args.generation_batch_size}) must be a multiple of "
                f"num_generations ({args.num_generations}): every group is sampled whole"
            )
        return args.generation_batch_size
    completions = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if args.counts_prompts:
        return completions * args.num_generations
    if is_less_than_a_group(args):
        return args.gradient_accumulation_steps * args.num_generations
    if completions % args.num_generations:
        words = " x ".join(f"{name} ({getattr(args, name)})" for name in product)
        raise UserError(
            f"{type(args).__name__}: {words} must be a multiple of num_generations ({args.num_generations}): every "
            "group is sampled whole"
        )
    return completions


def is_less_than_a_group(args: RunOptions) -> bool:
    """Whether the batch size must be taken for one group, as Unsloth takes it, since a group is sampled whole."""
    size, completions = args.per_device_train_batch_size, args.num_generations
    uneven = size * args.gradient_accumulation_steps % completions != 0
    return not args.counts_prompts and args.generation_batch_size is None and uneven and size < completions


def _check_count(args: RunOptions, name: str) -> None:
    value = getattr(args, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{type(args).__name__}: {name} must be a whole number of at least 1, got {value!r}")
