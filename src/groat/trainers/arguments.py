"""A trainer's arguments that TRL takes as objects: what groat can use of them, or what to give instead."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from groat.caches import cache_folder
from groat.config.tree import LoraConfig, RunConfig
from groat.model.files import replace_file
from groat.tasks.reward_loading import BUILT_IN
from groat.trainers.models.language_model import LanguageModel
from groat.trainers.models.text_tokenizer import TextTokenizer
from groat.trainers.peft import lora_section
from groat.types import UserError

RewardFunc = Callable[..., Any] | str
Rows = Iterable[Mapping[str, Any]]
Model = str | PathLike[str] | LanguageModel
"""A model as trainers take it."""

_MODEL_ID = re.compile(r"[\w.-]+/[\w.-]+")


def language_model(model: Any) -> LanguageModel:
    """The model, given as such or by its name: a folder, a .gguf file, a hub id or groat's default model."""
    if isinstance(model, LanguageModel):
        if model.is_trained:
            raise UserError(
                "the model has a trained adapter already: go on with its run by train(resume_from_checkpoint=...), or "
                "load the model again to train a new one"
            )
        return model
    if isinstance(model, str | PathLike):
        return LanguageModel(str(cast("str | PathLike[str]", model)))
    name = getattr(model, "name_or_path", None) or getattr(getattr(model, "config", None), "_name_or_path", None)
    hint = f"model={name!r}" if name else "the folder or name you loaded it from, which is its name_or_path"
    raise UserError(
        f"model is a {type(model).__name__}; groat loads the weights itself and stores them once, for sampling and "
        f"learning: pass {hint}"
    )


def lora_of(model: LanguageModel, peft_config: Any) -> tuple[LoraConfig, list[str]]:
    """The adapter to train, and notes: the model's, or what peft_config describes; UserError for both."""
    if model.lora is None:
        return lora_section(peft_config)
    if peft_config is not None:
        raise UserError("peft_config is given, but the model has an adapter from get_peft_model: leave one of them out")
    return model.lora, []


def with_model(config: RunConfig, model: LanguageModel, processing_class: Any) -> RunConfig:
    """The run with what the model and its tokenizer say: how weights are stored, and a chat template set on it."""
    config = replace(config, memory=replace(config.memory, storage=model.storage))
    new = processing_class.new_chat_template if isinstance(processing_class, TextTokenizer) else None
    if new is None:
        return config
    if config.model.chat_template is not None:
        raise UserError("args.chat_template and tokenizer.chat_template are both set: leave one of them out")
    return replace(config, model=replace(config.model, chat_template=_template_file(new)))


def _template_file(new: str) -> str:
    """Kept where a resumed run finds it again."""
    folder = cache_folder("chat_templates")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(new.encode()).hexdigest()[:16]}.jinja"
    replace_file(path, lambda file: file.write_text(new, encoding="utf-8"))
    return str(path)


def tokenizer_notes(processing_class: Any, model: str) -> list[str]:
    """A note where a tokenizer of this model was given; UserError for any other."""
    if processing_class is None:
        return []
    name = getattr(processing_class, "name_or_path", None)
    if isinstance(processing_class, TextTokenizer) and name == model:
        return []
    if not name or str(name) != model:
        raise UserError(
            f"processing_class is the tokenizer of {name!r}, the model {model!r}: groat reads the tokenizer that "
            "belongs to the model. Leave processing_class out; another chat template goes into args.chat_template"
        )
    return [
        "processing_class: groat reads the model's own tokenizer; settings made on this object (padding, a chat "
        "template) are not used"
    ]


def reward_list(reward_funcs: RewardFunc | Sequence[RewardFunc] | None) -> list[RewardFunc]:
    """The reward functions as a list; UserError for what looks like a reward model."""
    if reward_funcs is None:
        return []
    given = [reward_funcs] if isinstance(reward_funcs, str) or callable(reward_funcs) else list(reward_funcs)
    for function in given:
        if isinstance(function, str) and function not in BUILT_IN and ":" not in function:
            if not _MODEL_ID.fullmatch(function):
                continue  # an unknown name, which the loading of rewards reports with the nearest one
            raise UserError(
                f"reward_funcs has {function!r}, which looks like a reward model: groat runs functions only. Load the "
                "model yourself and call it inside a function, or name one of " + ", ".join(BUILT_IN)
            )
    return given


def dataset_rows(dataset: Any, argument: str) -> Rows:
    """Anything that yields mappings: a list of dicts, or a `datasets.Dataset`."""
    if dataset is None:
        raise UserError(f"{argument} is missing: give a list of dicts or a datasets.Dataset with a `prompt` column")
    if isinstance(dataset, str | Path):
        raise UserError(
            f"{argument} is {str(dataset)!r}: give the rows themselves, such as "
            f'datasets.load_dataset("json", data_files={str(dataset)!r})["train"]'
        )
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, cast("Mapping[Any, Any]", dataset)))
        raise UserError(f"{argument} is a dict with {splits}: give one of them, such as dataset[...]")
    if not isinstance(dataset, Iterable):
        raise UserError(f"{argument} is a {type(dataset).__name__}: give a list of dicts or a datasets.Dataset")
    return cast(Rows, dataset)


INSTEAD_OF_SHARED = {
    "reward_processing_classes": "reward functions get text; leave it out",
    "optimizers[0]": "the options optim, learning_rate and adam_* set the optimizer",
    "optimizers[1]": "lr_scheduler_type and warmup_steps set the schedule",
    "quantization_config": "state args.budget, and groat plans for it",
}
"""What to do in place of arguments that several of TRL's trainers have."""


def shared_others(
    reward_processing_classes: Any, optimizers: tuple[Any, Any], quantization_config: Any = None
) -> dict[str, tuple[Any, str]]:
    """For `refuse_others`: what was given of these."""
    given = (reward_processing_classes, *optimizers, quantization_config)
    return {name: (value, INSTEAD_OF_SHARED[name]) for name, value in zip(INSTEAD_OF_SHARED, given, strict=True)}


def refuse_others(trainer: str, others: Mapping[str, tuple[Any, str]]) -> None:
    """UserError for arguments of TRL's trainer that groat does not have; by name, what was given and what to do."""
    for name, (value, instead) in others.items():
        if value is not None:
            raise UserError(f"{name} is given, but groat's {trainer} does not have it: {instead}")
