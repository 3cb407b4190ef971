"""OnlineDPOTrainer, with TRL's signature, and a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from groat.tasks.judges import Judge, judged
from groat.tasks.task import Task
from groat.trainers.arguments import Model, RewardFunc, refuse_others, shared_others
from groat.trainers.config import OnlineDPOConfig
from groat.trainers.trainer import Trainer
from groat.types import UserError


class OnlineDPOTrainer(Trainer):
    """Trains an adapter with Online DPO (arXiv:2402.04792); in all else as GRPOTrainer.

    Answers are compared by their rewards, or by `judge` (`groat.tasks.judges`): a function, or an object with a method
    `judge`, which is given a list of prompts and a list of pairs of completions, and returns 0, 1 or -1 for each.
    """

    def __init__(
        self,
        model: Model,
        ref_model: Any = None,
        reward_funcs: RewardFunc | Sequence[RewardFunc] | None = None,
        args: OnlineDPOConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        peft_config: Any = None,
        compute_metrics: Any = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Any = None,
        judge: Judge | None = None,
    ) -> None:
        refuse_others(
            "OnlineDPOTrainer",
            {
                "ref_model": (ref_model, "the reference policy is the model without its adapter; leave it out"),
                "data_collator": (data_collator, "rows are taken as they are; leave it out"),
                "compute_metrics": (compute_metrics, "reward functions may call log_metric"),
                "preprocess_logits_for_metrics": (preprocess_logits_for_metrics, "no logits are kept; leave it out"),
                **shared_others(reward_processing_classes, optimizers),
            },
        )
        if judge is not None:
            if reward_funcs is not None:
                raise UserError("judge and reward_funcs are given: one of them says which answer is better")
            reward_funcs = judged(judge).function
        self._judge = judge
        super().__init__(
            model,
            reward_funcs,
            OnlineDPOConfig() if args is None else args,
            train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )

    def _task_from(self, reward_funcs: Sequence[RewardFunc], train_dataset: Any, eval_dataset: Any) -> Task:
        task = super()._task_from(reward_funcs, train_dataset, eval_dataset)
        return task if self._judge is None else replace(task, judge=self._judge, is_correct=None)
