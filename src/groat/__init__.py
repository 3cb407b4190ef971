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
    from groat.trainers.online_dpo import OnlineDPOTrainer as OnlineDPOTrainer
    from groat.trainers.peft import LoraConfig as LoraConfig
    from groat.trainers.ppo import PPOTrainer as PPOTrainer
    from groat.trainers.rloo import RLOOTrainer as RLOOTrainer

__version__ = "0.1.0"
__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "LoraConfig",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "PPOConfig",
    "PPOTrainer",
    "RLOOConfig",
    "RLOOTrainer",
]

_HOMES = {
    "GRPOConfig": "groat.trainers.config",
    "GRPOTrainer": "groat.trainers.grpo",
    "LoraConfig": "groat.trainers.peft",
    "OnlineDPOConfig": "groat.trainers.config",
    "OnlineDPOTrainer": "groat.trainers.online_dpo",
    "PPOConfig": "groat.trainers.config",
    "PPOTrainer": "groat.trainers.ppo",
    "RLOOConfig": "groat.trainers.config",
    "RLOOTrainer": "groat.trainers.rloo",
}


def __getattr__(name: str) -> Any:
    """Loaded when asked for, so that `import groat` and the command line start without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'groat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
