"""Shapes of well-known models, as `groat bench memory` has them."""

from __future__ import annotations

from groat.cli.memory_cases import SHAPES
from groat.model.families import spec_from_hf_config

SMOLLM2_135M = spec_from_hf_config(SHAPES["smollm2-135m"])
LLAMA_8B = spec_from_hf_config(SHAPES["llama-3.1-8b"])
