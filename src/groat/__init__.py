"""groat teaches a language model to reason with the memory you have."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groat.trainers.config import GRPOConfig as GRPOConfig
    from groat.trainers.config import OnlineDPOConfig as OnlineDPOConfig
    from groat.trainers.config import PPOConfig as PPOConfig
    from groat.trainers.config import RLOOConfig as RLOOConfig
    from groat.trainers.grpo import GRPOTrainer as GRPOTrainer
    from groat.trainers.models.auto import AutoModelForCausalLM as AutoModelForCausalLM
    from groat.trainers.models.auto import AutoTokenizer as AutoTokenizer
    from groat.trainers.models.fast_language_model import FastLanguageModel as FastLanguageModel
    from groat.trainers.models.fast_language_model import PatchFastRL as PatchFastRL
    from groat.trainers.models.fast_language_model import is_bfloat16_supported as is_bfloat16_supported
    from groat.trainers.models.sampling_params import SamplingParams as SamplingParams
    from groat.trainers.online_dpo import OnlineDPOTrainer as OnlineDPOTrainer
    from groat.trainers.peft import LoraConfig as LoraConfig
    from groat.trainers.ppo import PPOTrainer as PPOTrainer
    from groat.trainers.rloo import RLOOTrainer as RLOOTrainer

__version__ = "0.1.0"
__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "FastLanguageModel",
    "GRPOConfig",
    "GRPOTrainer",
    "LoraConfig",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "PatchFastRL",
    "RLOOConfig",
    "RLOOTrainer",
    "SamplingParams",
    "is_bfloat16_supported",
]

_HOMES = {
    "AutoModelForCausalLM": "groat.trainers.models.auto",
    "AutoTokenizer": "groat.trainers.models.auto",
    "FastLanguageModel": "groat.trainers.models.fast_language_model",
    "GRPOConfig": "groat.trainers.config",
    "GRPOTrainer": "groat.trainers.grpo",
    "LoraConfig": "groat.trainers.peft",
    "OnlineDPOConfig": "groat.trainers.config",
    "OnlineDPOTrainer": "groat.trainers.online_dpo",
    "PPOConfig": "groat.trainers.config",
    "PPOTrainer": "groat.trainers.ppo",
    "PatchFastRL": "groat.trainers.models.fast_language_model",
    "RLOOConfig": "groat.trainers.config",
    "RLOOTrainer": "groat.trainers.rloo",
    "SamplingParams": "groat.trainers.models.sampling_params",
    "is_bfloat16_supported": "groat.trainers.models.fast_language_model",
}


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that `import groat` and the command line start without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'groat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
