"""Hidden states of one micro-batch after the other, whose common prefix is computed once."""

from __future__ import annotations

from types import TracebackType

import torch

from groat.batching import MicroBatch
from groat.kernels.prefix import Prefix
from groat.model.backward import with_gradient
from groat.model.decoder import Decoder
from groat.model.lora import Adapter
from groat.model.recompute import Recompute
from groat.trees import Node


class Trunk:
    """The decoder under one policy, for as long as its weights stay the same.

    What micro-batches begin with goes forward before the first of them and, where gradients are wanted, backward after
    the last: with all gradients that they have found for its keys and values, so that it is as if each had computed
    it. Leaving the context ends the last prefix.
    """

    def __init__(self, decoder: Decoder, adapter: Adapter | None, recompute: Recompute | None) -> None:
        self._decoder = decoder
        self._adapter = adapter
        self._recompute = recompute
        self._prefix_ids: tuple[int, ...] = ()
        self._prefix: Prefix | None = None
        self._prefix_hidden_PH: torch.Tensor | None = None
        self.num_tokens = 0
        """Tokens computed so far, shared ones once."""

    def __enter__(self) -> Trunk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._end_prefix()

    def new_tokens(self, microbatch: MicroBatch) -> int:
        """How many of a micro-batch's tokens would have to be computed for it now."""
        is_there = microbatch.prefix_ids == self._prefix_ids
        return len(microbatch.token_ids_T) if is_there else microbatch.num_tokens

    def predictors(self, microbatch: MicroBatch) -> torch.Tensor:
        """What the head reads [N, H] to predict each of the N tokens; differentiable."""
        if microbatch.prefix_ids != self._prefix_ids:
            self._end_prefix()
            self._begin_prefix(microbatch.prefix_ids)
        self.num_tokens += len(microbatch.token_ids_T)
        hidden_TH = self._decoder.hidden_of_trees(
            microbatch.token_ids_T,
            microbatch.positions_T,
            microbatch.nodes,
            self._adapter,
            recompute=self._recompute if torch.is_grad_enabled() else None,
            before=self._prefix,
        )
        return self._decoder.final_norm(hidden_TH.index_select(0, microbatch.predictor_N))

    def _begin_prefix(self, prefix_ids: tuple[int, ...]) -> None:
        self._prefix_ids = prefix_ids
        if not prefix_ids:
            return
        count, learns = len(prefix_ids), torch.is_grad_enabled()
        self._prefix = self._decoder.prefix(count, learns=learns)
        self.num_tokens += count
        hidden_PH = self._decoder.hidden_of_trees(
            torch.tensor(prefix_ids),
            torch.arange(count),
            (Node(0, count, count, is_root=True),),
            self._adapter,
            recompute=self._recompute if learns else None,
            made=self._prefix,
        )
        self._prefix_hidden_PH = hidden_PH if learns else None

    def _end_prefix(self) -> None:
        hidden_PH, self._prefix_hidden_PH = self._prefix_hidden_PH, None
        if hidden_PH is not None:
            # Nothing is predicted from a prefix: its gradients are all by way of its keys and values.
            torch.autograd.backward(with_gradient(hidden_PH, torch.zeros_like(hidden_PH)))
        self._prefix, self._prefix_ids = None, ()
