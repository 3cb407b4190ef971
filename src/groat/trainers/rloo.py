"""RLOOTrainer, with TRL's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groat.trainers.arguments import Model, RewardFunc, refuse_others, shared_others
from groat.trainers.config import RLOOConfig
from groat.trainers.trainer import Trainer


class RLOOTrainer(Trainer):
    """Trains an adapter with RLOO (arXiv:2402.14740); in all else as GRPOTrainer."""

    def __init__(
        self,
        model: Model,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None = None,
        args: RLOOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ) -> None:
        refuse_others("RLOOTrainer", shared_others(reward_processing_classes, optimizers, quantization_config))
        super().__init__(
            model,
            reward_funcs,
            RLOOConfig() if args is None else args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )
