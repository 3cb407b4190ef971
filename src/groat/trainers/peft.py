"""What an adapter should look like: PEFT's LoraConfig, or ours where PEFT is not installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from groat.config import tree
from groat.trainers.trl_options import asks_for_something, plain
from groat.types import UserError

_IGNORED = {"peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"}
_READ = {"r", "lora_alpha", "target_modules", "lora_dropout", "bias"}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The trained adapter, with PEFT's names and defaults; trainers take PEFT's own LoraConfig just as well.

    Not to be confused with `groat.config.tree.LoraConfig`, the section `lora` of a recipe, whose defaults are larger.
    """

    r: int = 8
    """Rank."""
    lora_alpha: float = 8
    """The adapter's output is scaled by lora_alpha / r."""
    target_modules: str | Collection[str] | None = None
    """None, "all-linear" or the names of all linear layers: groat trains every one."""
    lora_dropout: float = 0.0
    """0: the policy that is sampled is the policy that is trained."""
    bias: str = "none"
    task_type: str | None = None
    """Not read: groat's models are causal language models."""
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool = True
    modules_to_save: Collection[str] | None = None


def lora_section(peft_config: Any) -> tuple[tree.LoraConfig, list[str]]:
    """The section of a recipe, and notes; UserError names every setting that groat cannot follow."""
    if peft_config is None:
        default = tree.LoraConfig()
        note = f"no peft_config: groat trains adapters only, here of r={default.r}, lora_alpha={default.lora_alpha:g}"
        return default, [f"{note}, on every linear layer"]
    _check_is_lora(peft_config)
    problems = [*_target_problems(peft_config.target_modules), *_other_problems(peft_config)]
    if problems:
        raise UserError("peft_config: " + "; ".join(problems))
    try:
        section = tree.LoraConfig(r=peft_config.r, lora_alpha=float(peft_config.lora_alpha))
    except (ValueError, TypeError) as error:
        raise UserError(f"peft_config: {error}") from None
    return section, _notes(peft_config)


def _check_is_lora(peft_config: Any) -> None:
    kind = str(plain(getattr(peft_config, "peft_type", "LORA")))
    is_lora = all(hasattr(peft_config, name) for name in _READ) and dataclasses.is_dataclass(peft_config)
    if kind != "LORA" or not is_lora or isinstance(peft_config, type):
        raise UserError(
            f"peft_config is {type(peft_config).__name__}; groat trains LoRA: pass peft.LoraConfig or groat.LoraConfig"
        )


def _target_problems(target_modules: str | Collection[str] | None) -> list[str]:
    from groat.model.modules import FUSED_TARGET_MODULES, TARGET_MODULES

    if target_modules is None or target_modules == "all-linear":
        return []
    names = {target_modules} if isinstance(target_modules, str) else set(target_modules)
    if names in (set(TARGET_MODULES), set(FUSED_TARGET_MODULES)):
        return []
    wrong = sorted(names - set(TARGET_MODULES))
    missing = sorted(set(TARGET_MODULES) - names)
    what = f"{', '.join(wrong)} cannot be trained" if wrong else f"{', '.join(missing)} cannot be left out yet"
    return [f'target_modules: {what}: groat trains every linear layer; say "all-linear"']


def _other_problems(peft_config: Any) -> list[str]:
    problems: list[str] = []
    if peft_config.lora_dropout:
        problems.append(
            f"lora_dropout is {peft_config.lora_dropout}: groat has no dropout, so that the policy that is sampled is "
            "the policy that is trained; set it to 0"
        )
    if peft_config.bias != "none":
        problems.append(f"bias is {peft_config.bias!r}: biases are not trained; set it to 'none'")
    for option in dataclasses.fields(peft_config):
        value, default = getattr(peft_config, option.name), _default(option)
        if option.name not in _IGNORED | _READ and asks_for_something(value, default):
            problems.append(f"{option.name} is {value!r}: groat trains plain LoRA; leave it at {default!r}")
    return problems


def _default(option: dataclasses.Field[Any]) -> Any:
    if option.default_factory is not dataclasses.MISSING:
        return option.default_factory()
    return None if option.default is dataclasses.MISSING else option.default


def _notes(peft_config: Any) -> list[str]:
    notes: list[str] = []
    if peft_config.target_modules is None:
        notes.append("peft_config.target_modules is None: every linear layer is trained (PEFT picks some of them)")
    task_type = plain(getattr(peft_config, "task_type", None))
    if task_type:
        notes.append(f"peft_config.task_type={task_type!r}: it is not read; models are causal language models")
    return notes
