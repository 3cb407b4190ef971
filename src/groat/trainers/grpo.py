"""GRPOTrainer, with TRL's signature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from groat.tasks.tools import ToolEnvironments
from groat.tasks.tools.loading import tools_from
from groat.trainers.arguments import Model, RewardFunc, refuse_others, shared_others
from groat.trainers.config import GRPOConfig
from groat.trainers.trainer import Trainer

_TOOL_SECONDS = 10.0
"""What a call may take."""


class GRPOTrainer(Trainer):
    """Trains an adapter with GRPO (arXiv:2402.03300) on rows and reward functions given from Python.

    Arguments, options (GRPOConfig), reward functions and metric names are TRL's. `model` is a name: a folder, a .gguf
    file, a hub id or smollm2-135m-instruct. `tools` are functions with type hints and a docstring in Google's
    style. What groat cannot do is refused by name; what makes no difference is noted.
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
        environment_factory: Any = None,
    ) -> None:
        refuse_others(
            "GRPOTrainer",
            {
                **shared_others(reward_processing_classes, optimizers, quantization_config),
                "rollout_func": (rollout_func, "groat samples with its own sampler; leave it out"),
                "environment_factory": (
                    environment_factory,
                    "environments come by task.environment of a recipe",
                ),
            },
        )
        args = GRPOConfig() if args is None else args
        super().__init__(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
            environments=_tool_environments(tools, args) if tools else None,
        )


def _tool_environments(tools: Sequence[Callable[..., Any]], args: GRPOConfig) -> ToolEnvironments:
    """In the format that the model's chat template knows."""
    calling = args.max_tool_calling_iterations
    return ToolEnvironments(
        tools=tools_from(tools, _TOOL_SECONDS), max_turns=args.max_completion_length if calling is None else calling + 1
    )
