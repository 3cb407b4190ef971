"""GRPOTrainer, with TRL's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groat.trainers.arguments import Model, RewardFunc, refuse_others, shared_others
from groat.trainers.config import GRPOConfig
from groat.trainers.trainer import Trainer


class GRPOTrainer(Trainer):
    """Trains an adapter with GRPO (arXiv:2402.03300) on rows and reward functions given from Python.

    Arguments, options (GRPOConfig), reward functions and metric names are TRL's. `model` is a name: a folder, a .gguf
    file, a hub id or smollm2-135m-instruct. What groat cannot do is refused by name; what makes no difference is noted.
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
        tools: Any = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
    ) -> None:
        refuse_others(
            "GRPOTrainer",
            {
                **shared_others(reward_processing_classes, optimizers, quantization_config),
                "tools": (tools, "groat has no tools; leave it out"),
                "rollout_func": (rollout_func, "groat samples with its own sampler; leave it out"),
                "environment_factory": (environment_factory, "groat has no environments; leave it out"),
            },
        )
        super().__init__(
            model,
            reward_funcs,
            GRPOConfig() if args is None else args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )
