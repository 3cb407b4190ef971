"""FastLanguageModel, with Unsloth's calls."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from groat.model.files import read_json_object
from groat.model.peft_files import CONFIG_FILE
from groat.trainers.models.language_model import LanguageModel
from groat.trainers.models.options import note_and_refuse
from groat.trainers.models.text_tokenizer import TextTokenizer
from groat.trainers.peft import LoraConfig, lora_section
from groat.trainers.trl_options import LEAVE_OUT
from groat.types import StorageKind, UserError

logger = logging.getLogger("groat")

_OWN_SAMPLER = "groat samples with the weights it trains; memory is planned (GRPOConfig.budget)"
_LOADING_NOTED = {
    "dtype": "weights are stored as load_in_4bit, load_in_8bit or load_in_16bit says, and computed with in 32 bits or "
    "int8",
    "fast_inference": _OWN_SAMPLER,
    "gpu_memory_utilization": _OWN_SAMPLER,
    "float8_kv_cache": _OWN_SAMPLER,
    "max_lora_rank": "adapters of any rank are generated with",
    "device_map": "a model is on the CPU",
    "use_gradient_checkpointing": "GRPOConfig.gradient_checkpointing decides",
    "trust_remote_code": "groat runs no code that comes with a model",
    "attn_implementation": "groat has its own attention",
    "disable_log_stats": _OWN_SAMPLER,
    "unsloth_vllm_standby": _OWN_SAMPLER,
    "fix_tokenizer": "the tokenizer is read as it is",
    "use_exact_model_name": "a name is always taken as it is",
    "low_cpu_mem_usage": "weights are read a few rows at a time",
    "token": "huggingface_hub's own login is used",
}
_LOADING_REFUSED = {
    "full_finetuning": "groat trains LoRA adapters; leave it out, and use get_peft_model",
    "load_in_fp8": "weights are stored in 32, 16, 8 or 4 bits; load_in_8bit is the nearest",
    "rope_scaling": "the model's own config.json says it",
    "resize_model_vocab": LEAVE_OUT,
    "revision": "download that revision, and give its folder as model_name",
    "qat_scheme": LEAVE_OUT,
    "quantization_config": "say load_in_4bit=True or load_in_8bit=True",
}
_LORA_NOTED = {
    "use_gradient_checkpointing": "GRPOConfig.gradient_checkpointing decides",
    "max_seq_length": "from_pretrained's max_seq_length holds",
    "random_state": "GRPOConfig.seed decides how the adapter that is trained begins",
}
_LORA_REFUSED = {
    "loftq_config": LEAVE_OUT,
    "layers_to_transform": "every layer is trained; leave it out",
    "layers_pattern": "every layer is trained; leave it out",
    "modules_to_save": LEAVE_OUT,
}
_SILENT = {
    "fast_inference": True,
    "use_gradient_checkpointing": "unsloth",
    "random_state": 3407,
    "fix_tokenizer": True,
    "disable_log_stats": True,
    "device_map": "sequential",
}
"""Values that notebooks pass by habit, and that ask for nothing which is not so."""


class FastLanguageModel:
    """Unsloth's way to a model, its tokenizer and its adapter. Options for a GPU are noted, others refused by name."""

    @staticmethod
    def from_pretrained(
        model_name: str,
        max_seq_length: int | None = 2048,
        dtype: Any = None,
        load_in_4bit: bool = True,
        load_in_8bit: bool = False,
        load_in_16bit: bool = False,
        random_state: int = 3407,
        **options: Any,
    ) -> tuple[LanguageModel, TextTokenizer]:
        """A model and its tokenizer by folder, .gguf file, hub id, groat's default name, or the folder of an adapter.

        4 bits are NF4, 8 bits int8, 16 bits bf16, and fp32 without any of them. max_seq_length bounds prompt and
        completion where something is generated. UserError where the name leads to no model.
        """
        note_and_refuse("from_pretrained", {"dtype": dtype, **options}, _LOADING_NOTED, _LOADING_REFUSED, _SILENT)
        folder = Path(model_name).expanduser()
        is_adapter = (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()
        model = LanguageModel(
            _base_of(folder) if is_adapter else str(model_name),
            storage=_storage(load_in_4bit, load_in_8bit, load_in_16bit),
            max_seq_length=max_seq_length,
            seed=random_state,
        )
        model.check()
        if is_adapter:
            model.use_adapter(folder)
        return model, TextTokenizer(model.name_or_path)

    @staticmethod
    def get_peft_model(
        model: LanguageModel,
        r: int = 16,
        target_modules: str | Collection[str] | None = "all-linear",
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_rslora: bool = False,
        init_lora_weights: bool = True,
        random_state: int = 3407,
        **options: Any,
    ) -> LanguageModel:
        """The same model, with a new adapter on every linear layer; UserError for what groat cannot train."""
        given = {"random_state": random_state, **options}
        note_and_refuse("get_peft_model", given, _LORA_NOTED, _LORA_REFUSED, _SILENT)
        section, _ = lora_section(
            LoraConfig(
                r=r,
                lora_alpha=lora_alpha,
                target_modules=target_modules,
                lora_dropout=lora_dropout,
                bias=bias,
                use_rslora=use_rslora,
                init_lora_weights=init_lora_weights,
            )
        )
        model.add_lora(section, random_state)
        return model

    @staticmethod
    def for_inference(model: LanguageModel) -> LanguageModel:
        """The same: a model is always ready to generate."""
        return model

    @staticmethod
    def for_training(model: LanguageModel, use_gradient_checkpointing: Any = True) -> LanguageModel:
        """The same, with its weights let go of: a trainer loads them itself."""
        del use_gradient_checkpointing
        model.release()
        return model


def PatchFastRL(algorithm: str | None = None, FastLanguageModel: Any = None) -> None:  # noqa: N802
    """Nothing: groat's trainers need no patch."""
    del algorithm, FastLanguageModel


def is_bfloat16_supported() -> bool:
    """False: groat computes in 32 bits or int8, and GRPOConfig's bf16 and fp16 change nothing."""
    return False


def _storage(in_4bit: bool, in_8bit: bool, in_16bit: bool) -> StorageKind | None:
    if in_8bit:
        return "int8"
    if in_16bit:
        return "bf16"
    return "nf4" if in_4bit else None


def _base_of(adapter: Path) -> str:
    """The model that an adapter was trained on."""
    config: Mapping[str, Any] = read_json_object(adapter / CONFIG_FILE)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UserError(f"{adapter / CONFIG_FILE} does not name the base model: load that, and use load_lora")
    return name
