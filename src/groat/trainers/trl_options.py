"""TRL's options that change nothing here: accepted with a reason, or refused with what to do instead.

Each field has TRL's name and default. A value other than the default is noted or refused, never passed over.
"""

# ruff: noqa: RUF009 - noted() and refused() return dataclasses.field()

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from groat.types import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def noted(default: Any, why: str) -> Any:
    """A field whose value makes no difference; `why` is logged where it is set."""
    return dataclasses.field(default=default, metadata={"noted": why})


def refused(default: Any, instead: str) -> Any:
    """A field of which only the default can be had; `instead` says what to do."""
    return dataclasses.field(default=default, metadata={"refused": instead})


def plain(value: Any) -> Any:
    """The text of transformers' enums, such as SchedulerType.COSINE; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def asks_for_something(value: Any, default: Any) -> bool:
    """Whether an option is set. An empty list, dict or text asks for nothing, and neither does None."""
    is_empty = value is None or (isinstance(value, list | dict | str | tuple) and not value)
    return not is_empty and value != default


def check_refused(options: DataclassInstance) -> None:
    """UserError with every option that asks for what groat does not do."""
    problems = [f"{name} is {value!r}: {instead}" for name, value, instead in _set_options(options, "refused")]
    if problems:
        raise UserError(f"{type(options).__name__}: " + "; ".join(problems))


def option_notes(options: DataclassInstance) -> list[str]:
    """A sentence for every option that is set and makes no difference."""
    return [f"{name}={_shown(name, value)}: {why}" for name, value, why in _set_options(options, "noted")]


def _shown(name: str, value: Any) -> str:
    return "..." if name == "hub_token" else repr(value)


def _set_options(options: DataclassInstance, kind: str) -> Iterator[tuple[str, Any, str]]:
    for option in dataclasses.fields(options):
        value = plain(getattr(options, option.name))
        if kind in option.metadata and asks_for_something(value, option.default):
            yield option.name, value, option.metadata[kind]


_FP32 = "weights and activations are 32-bit here, whatever this says"
_ONE_PROCESS = "a run is one process on one device"
_NO_DATALOADER = "rows are held in memory and taken straight from there; there is no dataloader"
_PLANNED = "groat plans memory itself (budget)"
_OWN_GENERATION = "groat samples with its own sampler"
_ALL_RECORDED = "every completion is recorded in the run's folder: groat runs show RUN"
NO_VLLM = "vLLM is not used"
NO_HUB = "nothing is uploaded"
_EVERY_STEP = "every step is logged"
SWITCHED_OFF = "it belongs to an option that is off"
_LOCAL_TRACKIO = "Trackio keeps its records on this machine"
LEAVE_OUT = "groat does not do this; leave it out"


@dataclass(kw_only=True)
class TRLOptions:
    """Options of TRL 1.16, transformers 5 and earlier versions of both that change nothing in groat."""

    max_prompt_length: int | None = noted(
        None, "groat never cuts a prompt, as TRL no longer does; one that exceeds the model's context is an error"
    )

    bf16: bool | None = noted(None, _FP32)
    fp16: bool | None = noted(False, _FP32)
    tf32: bool | None = noted(None, _FP32)
    bf16_full_eval: bool = noted(False, _FP32)
    fp16_full_eval: bool = noted(False, _FP32)
    use_cpu: bool = noted(False, "groat trains on the CPU anyway")
    disable_dropout: bool = noted(False, "there is no dropout in groat")
    full_determinism: bool = noted(False, "a run is decided by its seed anyway")
    trust_remote_code: bool = noted(False, "groat runs no code that comes with a model")
    router_aux_loss_coef: float | None = noted(None, "groat has no mixture-of-experts models")

    logging_steps: float = noted(10, _EVERY_STEP)
    logging_strategy: Any = noted("steps", _EVERY_STEP)
    logging_first_step: bool = noted(False, _EVERY_STEP)
    logging_nan_inf_filter: bool = noted(True, _EVERY_STEP)
    log_level: str = noted("passive", "set the level of the logger `groat` instead")
    log_level_replica: str = noted("warning", _ONE_PROCESS)
    log_on_each_node: bool = noted(True, _ONE_PROCESS)
    log_completions: bool = noted(False, _ALL_RECORDED)
    log_multimodal: bool = noted(True, _ALL_RECORDED)
    log_unique_prompts: bool = noted(False, _ALL_RECORDED)
    num_completions_to_print: int | None = noted(None, _ALL_RECORDED)
    include_num_input_tokens_seen: Any = noted("no", "the tokens of every completion are recorded")
    trackio_space_id: str | None = noted(None, _LOCAL_TRACKIO)
    trackio_bucket_id: str | None = noted(None, _LOCAL_TRACKIO)
    trackio_static_space_id: Any = noted(None, _LOCAL_TRACKIO)

    gradient_checkpointing_kwargs: Any = noted(None, "groat computes layers again in its own way")
    use_liger_kernel: bool = noted(False, "the loss is computed in chunks already")
    liger_kernel_config: Any = noted(None, "the loss is computed in chunks already")
    torch_compile: bool = noted(False, "groat runs uncompiled; results are the same")
    torch_compile_backend: str | None = noted(None, "groat runs uncompiled")
    torch_compile_mode: str | None = noted(None, "groat runs uncompiled")
    torch_empty_cache_steps: int | None = noted(None, _PLANNED)
    pad_to_multiple_of: Any = noted("auto", "nothing is padded in groat")
    per_device_eval_batch_size: int = noted(8, _PLANNED)
    eval_accumulation_steps: int | None = noted(None, _PLANNED)
    auto_find_batch_size: bool = refused(False, f"{_PLANNED}; leave it out, as in TRL")
    skip_memory_metrics: bool = noted(True, "memory is always measured")

    dataloader_drop_last: bool = noted(False, "the last rows of an epoch share their step with the next epoch's first")
    dataloader_num_workers: int = noted(0, _NO_DATALOADER)
    dataloader_pin_memory: bool = noted(True, _NO_DATALOADER)
    dataloader_persistent_workers: bool = noted(False, _NO_DATALOADER)
    dataloader_prefetch_factor: int | None = noted(None, _NO_DATALOADER)
    dataloader_multiprocessing_context: str | None = noted(None, _NO_DATALOADER)
    dataloader_in_order: bool = noted(True, _NO_DATALOADER)
    label_names: Any = noted(None, _NO_DATALOADER)
    length_column_name: str = noted("length", _NO_DATALOADER)
    train_sampling_strategy: str = noted("random", "shuffle_dataset decides the order of rows, as in TRL")
    data_seed: int | None = noted(None, "seed decides the order of rows too, as in TRL")
    remove_unused_columns: bool | None = refused(
        False, "reward functions get every column they take; remove those you do not want from the dataset"
    )

    ds3_gather_for_generation: bool = noted(True, _ONE_PROCESS)
    average_tokens_across_devices: bool = noted(True, _ONE_PROCESS)
    accelerator_config: Any = noted(None, _ONE_PROCESS)
    ddp_find_unused_parameters: bool | None = noted(None, _ONE_PROCESS)
    ddp_bucket_cap_mb: int | None = noted(None, _ONE_PROCESS)
    ddp_broadcast_buffers: bool | None = noted(None, _ONE_PROCESS)
    ddp_static_graph: bool | None = noted(None, _ONE_PROCESS)
    ddp_backend: str | None = noted(None, _ONE_PROCESS)
    ddp_timeout: int = noted(1800, _ONE_PROCESS)
    local_rank: int = noted(-1, _ONE_PROCESS)
    save_on_each_node: bool = noted(False, _ONE_PROCESS)
    fsdp: Any = refused(None, f"{_ONE_PROCESS}; leave it out")
    fsdp_config: Any = refused(None, f"{_ONE_PROCESS}; leave it out")
    deepspeed: Any = refused(None, f"{_ONE_PROCESS}; leave it out")
    parallelism_config: Any = refused(None, f"{_ONE_PROCESS}; leave it out")

    cache_implementation: str | None = noted(None, _OWN_GENERATION)
    use_cache: bool = noted(False, _OWN_GENERATION)
    use_transformers_paged: bool = noted(False, _OWN_GENERATION)
    use_transformers_continuous_batching: bool = noted(False, _OWN_GENERATION)
    transformers_continuous_batching_config: Any = noted(None, _OWN_GENERATION)
    use_vllm: bool = noted(False, f"groat samples with the weights it trains; {NO_VLLM}")
    vllm_mode: str = noted("colocate", NO_VLLM)
    vllm_model_impl: str = noted("vllm", NO_VLLM)
    vllm_enable_sleep_mode: bool = noted(False, NO_VLLM)
    vllm_server_base_url: str | None = noted(None, NO_VLLM)
    vllm_server_host: str = noted("0.0.0.0", NO_VLLM)
    vllm_server_port: int = noted(8000, NO_VLLM)
    vllm_server_timeout: float = noted(240.0, NO_VLLM)
    vllm_group_port: int = noted(51216, NO_VLLM)
    vllm_gpu_memory_utilization: float = noted(0.3, f"{NO_VLLM}; {_PLANNED}")
    vllm_max_model_length: int | None = noted(None, NO_VLLM)
    vllm_max_model_len: int | None = noted(None, NO_VLLM)
    vllm_tensor_parallel_size: int = noted(1, NO_VLLM)
    vllm_structured_outputs_regex: str | None = refused(None, LEAVE_OUT)
    vllm_guided_decoding_regex: str | None = refused(None, LEAVE_OUT)
    chat_template_kwargs: Any = refused(None, "write them into a template file and give its path as chat_template")

    sync_ref_model: bool = refused(False, "the reference policy is always the model without its adapter")
    ref_model_mixup_alpha: float = noted(0.6, SWITCHED_OFF)
    ref_model_sync_steps: int = noted(512, SWITCHED_OFF)

    lr_scheduler_kwargs: Any = refused(None, "linear and cosine end at 0; leave it out")
    optim_args: str | None = refused(None, "adam_beta1, adam_beta2, adam_epsilon and weight_decay set the optimizer")
    optim_target_modules: Any = refused(None, LEAVE_OUT)
    label_smoothing_factor: float = refused(0.0, LEAVE_OUT)
    neftune_noise_alpha: float | None = refused(None, LEAVE_OUT)

    do_train: bool = noted(False, "train() trains, whatever this says")
    do_eval: bool = noted(False, "eval_strategy decides")
    do_predict: bool = noted(False, "eval_strategy decides")
    eval_delay: float = refused(0, "evaluations begin before the first step; leave it out")
    prediction_loss_only: bool = noted(False, "evaluation measures rewards, not a loss")
    eval_do_concat_batches: bool = noted(True, "evaluation measures rewards, not a loss")
    eval_use_gather_object: bool = noted(False, _ONE_PROCESS)
    include_for_metrics: Any = noted((), "evaluation measures rewards, not a loss")
    batch_eval_metrics: bool = noted(False, "evaluation measures rewards, not a loss")
    load_best_model_at_end: bool = refused(False, "the adapter of the last step is kept; leave it out")
    metric_for_best_model: str | None = noted(None, SWITCHED_OFF)
    greater_is_better: bool | None = noted(None, SWITCHED_OFF)
    save_only_model: bool = noted(False, "checkpoints hold the optimizer's state too, so that a run can go on")
    save_safetensors: bool = noted(True, "nothing but safetensors is written")
    overwrite_output_dir: bool = refused(False, "groat never overwrites a run; choose another output_dir")
    enable_jit_checkpoint: bool = noted(False, "SIGTERM saves the run anyway")
    ignore_data_skip: bool = refused(False, "a resumed run goes on with the rows that come next")
    restore_callback_states_from_checkpoint: bool = refused(False, LEAVE_OUT)
    resume_from_checkpoint: str | None = noted(None, "give it to train(resume_from_checkpoint=...)")
    debug: Any = noted("", "there is nothing to switch on")

    push_to_hub: bool = refused(False, f"{NO_HUB}; save_model() writes PEFT's files, which you can upload")
    hub_model_id: str | None = noted(None, NO_HUB)
    hub_strategy: Any = noted("every_save", NO_HUB)
    hub_token: str | None = noted(None, NO_HUB)
    hub_private_repo: bool | None = noted(None, NO_HUB)
    hub_always_push: bool = noted(False, NO_HUB)
    hub_revision: str | None = noted(None, NO_HUB)
