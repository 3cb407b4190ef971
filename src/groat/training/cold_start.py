"""The cold start: worked examples learned by the run's own adapter, before reinforcement learning goes on with it.

In the run's record its steps are numbered upwards to 0, so that one line of time holds all: step 1 is the first of
reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from groat.algorithms.supervised import Supervised
from groat.config.tree import RunConfig
from groat.learning.learner import Learner, Progress, Update
from groat.model.lora import Adapter, copy_of
from groat.training.build import Built, learner_plan
from groat.types import UserError

PREFIX = "cold_start/"
"""Of its figures' names in the record."""
_REFERENCE = "reference."


class ColdStart:
    """The supervised phase of a run. Its optimizer goes when this does."""

    def __init__(self, config: RunConfig, built: Built) -> None:
        self._config = config
        self._lessons = built.decision.lessons
        self._algorithm = Supervised()
        cold = config.cold_start
        training = replace(
            config.training,
            learning_rate=cold.learning_rate,
            lr_scheduler_type=cold.lr_scheduler_type,
            warmup_ratio=cold.warmup_ratio,
        )
        self.learner = Learner(
            built.decoder,
            built.parts.learner.adapter,
            learner_plan(built.plan),
            training,
            temperature=1.0,
            num_updates=self._lessons.num_steps,
            guard=built.guard,
        )

    def rehearse(self) -> None:
        """Meet the largest micro-batch now."""
        self.learner.rehearse(1, self._lessons.longest)

    def step(self, number: int, progress: Progress) -> Update:
        """Learn the examples of step `number` (from 1) of the cold start."""
        groups = self._lessons.of_step(number, self._config.seed, self._config.cold_start.batch_size)
        return self.learner.update(self._algorithm.assign_credit(groups), self._algorithm, progress)


def reference_tensors(reference: Adapter | None) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps of a reference policy; nothing where that is the base."""
    return {} if reference is None else {_REFERENCE + name: t for name, t in reference.named_tensors().items()}


def reference_from(tensors: Mapping[str, torch.Tensor], adapter: Adapter) -> Adapter:
    """The reference policy in a checkpoint, of the shape of `adapter`."""
    reference = copy_of(adapter)
    for name, tensor in reference.named_tensors().items():
        if (kept := tensors.get(_REFERENCE + name)) is None or kept.shape != tensor.shape:
            raise UserError(
                "the checkpoint does not hold the policy that the cold start left, which algorithm.beta now needs: put "
                "algorithm.beta and cold_start.reference back to what they were"
            )
        tensor.copy_(kept)
    return reference
