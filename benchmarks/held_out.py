"""The judge of all sides' adapters: groat's own evaluation, with the model in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from groat.config.tree import MemoryConfig, RunConfig
from groat.model.peft_files import load_peft
from groat.tracking.console import Console
from groat.tracking.rows import Evaluation
from groat.training.build import build
from groat.training.evaluate import evaluate
from groat.training.phases import Phases


class HeldOut:
    """Holds the model, and what the recipe evaluates on."""

    def __init__(self, config: RunConfig) -> None:
        self._config = replace(config, model=replace(config.model, compute="f32"), memory=MemoryConfig(storage="f32"))
        self._built = build(self._config)
        self._phases = Phases(Console(quiet=True))

    def figures(self, adapter: Path) -> Mapping[str, Evaluation]:
        """Of an adapter in PEFT's files; every adapter is judged with the same random numbers."""
        built = self._built
        return evaluate(
            built.parts.sampler,
            built.held_out,
            load_peft(adapter, built.model.spec),
            built.parts.sampling,
            self._config.evaluation.num_samples,
            built.task.is_correct,
            self._phases,
        ).figures
