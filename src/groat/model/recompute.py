"""Which activations the learner keeps for backward, and which it computes again."""

from __future__ import annotations

from dataclasses import dataclass

from groat.config.tree import SavedInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """Which activations are kept for backward."""

    every: int
    """Layers that are computed again together: 1 holds one layer's activations at a time and every layer's input."""
    saved_inputs: SavedInputs = "f32"
    """What the inputs are kept in. In bf16 backward starts each time from an input rounded to 8 bits of mantissa."""
