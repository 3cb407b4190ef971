"""A GRPOTrainer on the toy task."""

from pathlib import Path
from typing import Any

from groat.testing import tiny_model, toy_rows, vowel_share
from groat.trainers.config import GRPOConfig
from groat.trainers.grpo import GRPOTrainer
from groat.trainers.peft import LoraConfig

LORA = LoraConfig(r=8, lora_alpha=16)


def toy_options(output_dir: Path, **changes: Any) -> GRPOConfig:
    options: dict[str, Any] = {
        "output_dir": str(output_dir),
        "learning_rate": 3e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 4,
        "per_device_train_batch_size": 32,
        "max_completion_length": 8,
        "disable_tqdm": True,
        "seed": 1,
    }
    return GRPOConfig(**options | changes)


def toy_trainer(folder: Path, name: str = "run", *, rows: Any = None, **changes: Any) -> GRPOTrainer:
    """Trains in folder/name; arguments of the trainer go to it, all others to its options."""
    of_trainer = {
        "reward_funcs",
        "eval_dataset",
        "callbacks",
        "peft_config",
        "processing_class",
        "optimizers",
        "tools",
        "environment_factory",
    }
    arguments = {key: changes.pop(key) for key in list(changes) if key in of_trainer}
    model = folder / "model"
    if not model.exists():
        tiny_model(model, seed=1)
    return GRPOTrainer(
        **{
            "model": str(model),
            "reward_funcs": vowel_share,
            "args": toy_options(folder / name, **changes),
            "train_dataset": toy_rows() if rows is None else rows,
            "peft_config": LORA,
            **arguments,
        }
    )


def figures(trainer: GRPOTrainer) -> list[dict[str, float]]:
    """What was logged, without what differs from run to run: times and memory."""
    varying = ("seconds", "per_second", "time", "gib")
    return [
        {name: value for name, value in entry.items() if not name.endswith(varying)}
        for entry in trainer.state.log_history
    ]
