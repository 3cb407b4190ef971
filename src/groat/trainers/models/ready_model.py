"""A model's weights in memory, and what draws from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groat.config.tree import ModelConfig
from groat.memory.guard import Guard
from groat.memory.kept import kept_storage
from groat.memory.sensitivities import read_sensitivities
from groat.model.checkpoint import Store
from groat.model.decoder import Decoder
from groat.model.fingerprint import fingerprint
from groat.model.load import load_model
from groat.model.locate import read_spec
from groat.model.lora import Adapter
from groat.model.storage import Storage
from groat.model.tokenizer import read_tokenizer
from groat.quantization.store import dynamic_store
from groat.sampling.native.sampler import NativeSampler
from groat.tracking.folder import RunFolder
from groat.trainers.models.drawing import completion_output, draw_completions
from groat.trainers.models.sampling_params import CompletionOutput, SamplingParams
from groat.types import Completion, StorageKind

_AT_ONCE, _PREFILL_TOKENS = 64, 2048
"""Sequences decoded side by side, and prompt tokens computed in one forward; the guard lets fewer in if need be."""


class ReadyModel:
    """Holds the weights as long as it lives."""

    def __init__(self, config: ModelConfig, folder: Path, storage: StorageKind | None, run: RunFolder | None) -> None:
        """Weights stored as the run's plan says, or as asked; in fp32 without either."""
        stored, store = _storage(folder, storage, run)
        self.tokenizer = read_tokenizer(config, folder)
        model = load_model(config, stored, folder, self.tokenizer, store)
        self._sampler = NativeSampler(
            Decoder(model.spec, model.weights),
            self.tokenizer,
            max_concurrent=_AT_ONCE,
            prefill_tokens=_PREFILL_TOKENS,
            guard=Guard(),
        )

    def draw(
        self,
        prompts: Sequence[Sequence[int]],
        adapter: Adapter | None,
        params: SamplingParams,
        context: int,
        seeds: Sequence[int],
    ) -> list[tuple[Completion, ...]]:
        """`params.n` completions of each prompt; prompt and completion have `context` tokens at most."""
        return draw_completions(self._sampler, prompts, adapter, params, context, seeds)

    def outputs(self, completions: Sequence[Completion], params: SamplingParams) -> tuple[CompletionOutput, ...]:
        return tuple(completion_output(index, one, params, self.tokenizer) for index, one in enumerate(completions))


def _storage(folder: Path, storage: StorageKind | None, run: RunFolder | None) -> tuple[Storage | None, Store | None]:
    if run is None:
        return None if storage is None else Storage.of(storage), None
    spec = read_spec(folder)
    kept = kept_storage(run.plan_path, spec)
    if kept is None or not kept.calibrated:
        return kept, None
    return kept, dynamic_store(kept, read_sensitivities(run.sensitivities_path, spec, fingerprint(folder)))
