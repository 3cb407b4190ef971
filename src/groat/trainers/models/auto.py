"""AutoModelForCausalLM and AutoTokenizer, for scripts that load a model before they give it to a trainer."""

from __future__ import annotations

from os import PathLike
from typing import Any

from groat.trainers.models.language_model import LanguageModel
from groat.trainers.models.options import note_and_refuse
from groat.trainers.models.text_tokenizer import TextTokenizer
from groat.trainers.trl_options import LEAVE_OUT

_STORED = "weights are stored in 32 bits, or as GRPOConfig.budget needs"
_NOTED = {
    "dtype": _STORED,
    "torch_dtype": _STORED,
    "device_map": "a model is on the CPU",
    "attn_implementation": "groat has its own attention",
    "use_cache": "groat samples with its own sampler",
    "low_cpu_mem_usage": "weights are read a few rows at a time",
    "trust_remote_code": "groat runs no code that comes with a model",
    "token": "huggingface_hub's own login is used",
}
_REFUSED = {
    "quantization_config": "state GRPOConfig.budget, or use FastLanguageModel with load_in_4bit=True",
    "load_in_4bit": "use FastLanguageModel",
    "load_in_8bit": "use FastLanguageModel",
    "revision": "download that revision, and give its folder",
    "config": LEAVE_OUT,
}
_TOKENIZER_NOTED = {
    "use_fast": "tokenizer.json is all that is read",
    "padding_side": "set it on the tokenizer; nothing is padded in training",
    "trust_remote_code": "groat runs no code that comes with a model",
    "token": "huggingface_hub's own login is used",
}


class AutoModelForCausalLM:
    """transformers' way to a model. Give it to a trainer with a peft_config: groat trains adapters."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | PathLike[str], **options: Any) -> LanguageModel:
        """A model by folder, .gguf file, hub id or groat's default name; UserError where that leads to no model."""
        note_and_refuse("from_pretrained", options, _NOTED, _REFUSED, {"device_map": "auto"})
        model = LanguageModel(str(pretrained_model_name_or_path))
        model.check()
        return model


class AutoTokenizer:
    """transformers' way to a tokenizer."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | PathLike[str], **options: Any) -> TextTokenizer:
        """By the model's name, as for AutoModelForCausalLM."""
        note_and_refuse("from_pretrained", options, _TOKENIZER_NOTED, {}, {"use_fast": True})
        return TextTokenizer(str(pretrained_model_name_or_path))
