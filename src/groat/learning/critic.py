"""The value model while it is trained, on the trunk that it shares with the policy."""

from __future__ import annotations

import torch

from groat.config.tree import TrainingConfig
from groat.learning.trained_weights import TrainedWeights
from groat.learning.trunk import Trunk
from groat.model.decoder import Decoder
from groat.model.recompute import Recompute
from groat.model.value_model import ValueModel


class Critic:
    """Says what rewards are still to come. `weights` is what it is trained by."""

    def __init__(
        self, decoder: Decoder, model: ValueModel, config: TrainingConfig, *, learning_rate: float | None = None
    ) -> None:
        # One of its own over the same tensors: a decoder keeps the compiled layers of one adapter.
        self._decoder = Decoder(decoder.spec, decoder.weights)
        self._model = model
        self.weights = TrainedWeights(model.named_tensors(), config, "value")
        self.rate_factor = 1.0 if learning_rate is None else learning_rate / config.learning_rate
        """How much faster than the policy it learns."""

    def trunk(self, recompute: Recompute | None) -> Trunk:
        """What computes that which `values` reads."""
        return Trunk(self._decoder, self._model.adapter, recompute)

    def values(self, predictors_NH: torch.Tensor) -> torch.Tensor:
        """Before each of the N tokens; differentiable."""
        return self._model.values(predictors_NH)
