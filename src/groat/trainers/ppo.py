"""PPOTrainer, with TRL's signature, and reward functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groat.trainers.arguments import RewardFunc, refuse_others, shared_others
from groat.trainers.config import PPOConfig
from groat.trainers.trainer import Trainer


class PPOTrainer(Trainer):
    """Trains an adapter with PPO (arXiv:1707.06347), and a value model on the same weights; in all else as GRPOTrainer.

    The arguments are those of TRL's experimental PPOTrainer, in its order. Where that takes a reward model, this one
    takes `reward_funcs`; `model` is a name.
    """

    def __init__(
        self,
        args: PPOConfig | None = None,
        processing_class: Any = None,
        model: Any = None,
        ref_model: Any = None,
        reward_model: Any = None,
        train_dataset: Any = None,
        value_model: Any = None,
        data_collator: Any = None,
        eval_dataset: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
        callbacks: Sequence[Any] | None = None,
        peft_config: Any = None,
        *,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None = None,
    ) -> None:
        refuse_others(
            "PPOTrainer",
            {
                "ref_model": (ref_model, "the reference policy is the model without its adapter; leave it out"),
                "reward_model": (reward_model, "give reward_funcs, and call the model inside a function"),
                "value_model": (value_model, "it is made of the model's own weights; value_lora_r sets its adapter"),
                "data_collator": (data_collator, "rows are taken as they are; leave it out"),
                **shared_others(None, optimizers),
            },
        )
        super().__init__(
            model,
            reward_funcs,
            PPOConfig() if args is None else args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )
