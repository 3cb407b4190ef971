"""GRPOTrainer, with TRL's signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from groat.tasks.environments import Environments
from groat.tasks.tools import ToolEnvironments
from groat.tasks.tools.loading import tools_from
from groat.tasks.tools.object_environments import object_environments, own_reward
from groat.trainers.arguments import Model, RewardFunc, refuse_others, reward_list, shared_others
from groat.trainers.config import GRPOConfig
from groat.trainers.trainer import Trainer
from groat.types import UserError

_TOOL_SECONDS = 10.0
"""What a call may take."""


class GRPOTrainer(Trainer):
    """Trains an adapter with GRPO (arXiv:2402.03300) on rows and reward functions given from Python.

    Arguments, options (GRPOConfig), reward functions and metric names are TRL's. `model` is a name: a folder, a .gguf
    file, a hub id or smollm2-135m-instruct. `tools` are functions with type hints and a docstring in Google's
    style. `environment_factory` makes an object for every completion: `reset` begins it, its other public methods are
    tools, and `get_reward`, where it has one, is a reward. What groat cannot do is refused by name; what makes no
    difference is noted.
    """

    def __init__(
        self,
        model: Model,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: Sequence[Callable[..., Any]] | None = None,
        rollout_func: Any = None,
        environment_factory: Callable[[], Any] | None = None,
    ) -> None:
        refuse_others(
            "GRPOTrainer",
            {
                **shared_others(reward_processing_classes, optimizers, quantization_config),
                "rollout_func": (rollout_func, "groat samples with its own sampler; leave it out"),
            },
        )
        args = GRPOConfig() if args is None else args
        if environment_factory is not None:
            reward_funcs, args = _with_own_reward(environment_factory, reward_funcs, args)
        super().__init__(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
            environments=_environments(tools or (), environment_factory, args),
        )


def _environments(
    functions: Sequence[Callable[..., Any]], factory: Callable[[], Any] | None, args: GRPOConfig
) -> Environments | None:
    """In the format that the model's chat template knows; None: there are no tools."""
    calling = args.max_tool_calling_iterations
    max_turns = args.max_completion_length if calling is None else calling + 1
    tools = tools_from(functions, _TOOL_SECONDS)
    if factory is not None:
        return object_environments(factory, tools, max_turns, _TOOL_SECONDS)
    return ToolEnvironments(tools=tools, max_turns=max_turns) if tools else None


def _with_own_reward(
    factory: Callable[[], Any], reward_funcs: RewardFunc | Sequence[RewardFunc] | None, args: GRPOConfig
) -> tuple[list[RewardFunc], GRPOConfig]:
    """What the environments say of themselves counts once, behind the given functions, whatever reward_weights are."""
    if isinstance(factory, Mapping):
        raise UserError(
            f"environment_factory is a dict with {', '.join(map(str, factory))}: groat trains on one environment at a "
            "time. Give one of them, with the rows that belong to it"
        )
    given, own = reward_list(reward_funcs), own_reward(factory)
    if own is None:
        return given, args
    weights = None if args.reward_weights is None else [*args.reward_weights, 1.0]
    return [*given, own], replace(args, reward_weights=weights)
