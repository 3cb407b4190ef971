"""The value model while it is trained, on the trunk that it shares with the policy."""

from __future__ import annotations

import torch

from groat.batching import MicroBatch
from groat.config.tree import TrainingConfig
from groat.learning.trained_weights import TrainedWeights
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

    def values(self, microbatch: MicroBatch, recompute: Recompute | None) -> torch.Tensor:
        """Before each of the N tokens; differentiable."""
        hidden_TH = self._decoder.hidden_of_trees(
            microbatch.token_ids_T,
            microbatch.positions_T,
            microbatch.nodes,
            self._model.adapter,
            recompute=recompute,
        )
        return self._model.values(self._decoder.final_norm(hidden_TH.index_select(0, microbatch.predictor_N)))
