"""TRL's options: translated by value, noted, or refused by name."""

import dataclasses
import inspect
import math
import re
from enum import Enum
from typing import Any

import numpy as np
import pytest

from groat.config.tree import LoraConfig, RunConfig
from groat.trainers import algorithm_options as algorithm_module
from groat.trainers import grpo as grpo_module
from groat.trainers import notes as notes_module
from groat.trainers import steps as steps_module
from groat.trainers import trainer as trainer_module
from groat.trainers import translate as translate_module
from groat.trainers.config import GRPOConfig
from groat.trainers.models.sampling_params import SamplingParams
from groat.trainers.translate import Data, Translation, translate
from groat.types import UserError

# What Unsloth's notebook for Qwen3 passes.
QWEN3 = SamplingParams(min_p=0.1, top_p=1.0, top_k=-1, seed=3407, stop=["<|im_end|>"], include_stop_str_in_output=True)
DATA = Data(task_name="python", num_rows=100, num_eval_rows=None, reward_names=["good"])


def translated(data: Data = DATA, **options: Any) -> Translation:
    return translate(GRPOConfig(**options), "m", LoraConfig(), data)


def config(**options: Any) -> RunConfig:
    return translated(**options).config


def at(config: RunConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


class Scheduler(Enum):
    COSINE = "cosine"


def test_the_defaults_are_trls():
    # 8 completions a step in groups of 8: one prompt a step, so 3 epochs of 100 rows are 300 steps.
    found = config()
    assert found.training.max_steps == 300
    assert found.training.generation_batch_size == found.sampling.num_generations == 8
    assert found.training.learning_rate == 1e-6
    assert found.training.lr_scheduler_type == "linear"
    assert found.training.save_steps == 500
    assert found.training.save_total_limit == 300
    assert found.evaluation.num_problems == 0
    assert found.memory.gradient_checkpointing is True
    assert found.sampling.max_completion_length == 512
    assert found.task.name == "python"
    assert found.task.reward_funcs == ("good",)
    assert found.algorithm == dataclasses.replace(RunConfig().algorithm)
    assert found.seed == 42
    assert translated().notes == ()


@pytest.mark.parametrize(
    ("options", "path", "value"),
    [
        ({"output_dir": "out"}, "output_dir", "out"),
        ({"seed": 7}, "seed", 7),
        ({"chat_template": "t.jinja"}, "model.chat_template", "t.jinja"),
        ({"budget": "3GiB"}, "memory.budget", "3GiB"),
        ({"gradient_checkpointing": None}, "memory.gradient_checkpointing", None),
        ({"reward_weights": [2]}, "task.reward_weights", (2.0,)),
        ({"reward_timeout_seconds": 5}, "task.reward_timeout_seconds", 5.0),
        ({"num_generations": 4}, "sampling.num_generations", 4),
        ({"max_completion_length": 64}, "sampling.max_completion_length", 64),
        ({"temperature": 0.7}, "sampling.temperature", 0.7),
        ({"top_p": 0.9}, "sampling.top_p", 0.9),
        ({"top_k": 50}, "sampling.top_k", 50),
        ({"top_k": None}, "sampling.top_k", 0),
        ({"top_k": -1}, "sampling.top_k", 0),
        ({"min_p": 0.1}, "sampling.min_p", 0.1),
        ({"repetition_penalty": 1.1}, "sampling.repetition_penalty", 1.1),
        ({"generation_kwargs": {"stop_strings": "###"}}, "sampling.stop", ("###",)),
        ({"generation_kwargs": {"min_new_tokens": 3}}, "sampling.min_completion_length", 3),
        ({"vllm_sampling_params": QWEN3}, "sampling.min_p", 0.1),
        ({"vllm_sampling_params": QWEN3}, "sampling.stop", ("<|im_end|>",)),
        ({"vllm_sampling_params": QWEN3, "top_p": 0.9, "top_k": 7}, "sampling.top_p", 0.9),
        ({"vllm_sampling_params": QWEN3, "top_p": 0.9, "top_k": 7}, "sampling.top_k", 7),
        ({"vllm_sampling_params": SamplingParams(top_k=5, stop="x"), "top_k": 7}, "sampling.top_k", 5),
        ({"vllm_sampling_params": SamplingParams(min_tokens=3)}, "sampling.min_completion_length", 3),
        ({"beta": 0.04}, "algorithm.beta", 0.04),
        ({"num_iterations": 2}, "algorithm.num_iterations", 2),
        ({"epsilon": 0.1}, "algorithm.epsilon", 0.1),
        ({"epsilon_high": 0.28}, "algorithm.epsilon_high", 0.28),
        ({"delta": 1.5}, "algorithm.delta", 1.5),
        ({"loss_type": "dr_grpo"}, "algorithm.loss_type", "dr_grpo"),
        ({"importance_sampling_level": "sequence"}, "algorithm.importance_sampling_level", "sequence"),
        ({"loss_type": "sapo"}, "algorithm.loss_type", "sapo"),
        ({"loss_type": "vespo"}, "algorithm.loss_type", "vespo"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "algorithm.multi_objective_aggregation",
            "normalize_then_sum",
        ),
        ({"entropy_coef": 0.1}, "algorithm.entropy_coef", 0.1),
        ({"top_entropy_quantile": 0.2}, "algorithm.top_entropy_quantile", 0.2),
        ({"off_policy_mask_threshold": 0.5}, "algorithm.off_policy_mask_threshold", 0.5),
        ({"sapo_temperature_pos": 2.0}, "algorithm.sapo_temperature_pos", 2.0),
        ({"sapo_temperature_neg": 2.0}, "algorithm.sapo_temperature_neg", 2.0),
        ({"vespo_k_pos": 1.0}, "algorithm.vespo_k_pos", 1.0),
        ({"vespo_lambda_pos": 1.0}, "algorithm.vespo_lambda_pos", 1.0),
        ({"vespo_k_neg": 1.0}, "algorithm.vespo_k_neg", 1.0),
        ({"vespo_lambda_neg": 1.0}, "algorithm.vespo_lambda_neg", 1.0),
        ({"scale_rewards": True}, "algorithm.scale_rewards", "group"),
        ({"scale_rewards": False}, "algorithm.scale_rewards", "none"),
        ({"scale_rewards": "batch"}, "algorithm.scale_rewards", "batch"),
        ({"mask_truncated_completions": True}, "algorithm.mask_truncated_completions", True),
        ({"vllm_importance_sampling_correction": False}, "algorithm.importance_sampling_correction", False),
        ({"vllm_importance_sampling_clip_max": 2.0}, "algorithm.importance_sampling_cap", 2.0),
        ({"vllm_importance_sampling_cap": 4.0}, "algorithm.importance_sampling_cap", 4.0),
        ({"learning_rate": 1e-4}, "training.learning_rate", 1e-4),
        ({"weight_decay": 0.1}, "training.weight_decay", 0.1),
        ({"adam_beta1": 0.8}, "training.adam_beta1", 0.8),
        ({"adam_beta2": 0.99}, "training.adam_beta2", 0.99),
        ({"adam_epsilon": 1e-6}, "training.adam_epsilon", 1e-6),
        ({"max_grad_norm": 0.1}, "training.max_grad_norm", 0.1),
        ({"lr_scheduler_type": Scheduler.COSINE}, "training.lr_scheduler_type", "cosine"),
        ({"lr_scheduler_type": "constant_with_warmup"}, "training.lr_scheduler_type", "constant"),
        ({"warmup_ratio": 0.1}, "training.warmup_ratio", 0.1),
        ({"warmup_ratio": 0.1, "lr_scheduler_type": "constant"}, "training.warmup_ratio", 0.0),
        ({"warmup_steps": 0.25}, "training.warmup_ratio", 0.25),
        ({"warmup_steps": 5, "max_steps": 20, "warmup_ratio": 0.9}, "training.warmup_ratio", 0.25),
        ({"max_steps": 20}, "training.max_steps", 20),
        ({"max_steps": 20, "num_iterations": 3}, "training.max_steps", 7),
        ({"num_train_epochs": 0.5}, "training.max_steps", 50),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}, "training.generation_batch_size", 16),
        ({"generation_batch_size": 32}, "training.generation_batch_size", 32),
        # One group for each of gradient_accumulation_steps, as with Unsloth.
        ({"per_device_train_batch_size": 1}, "training.generation_batch_size", 8),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_generations": 4},
            "training.generation_batch_size",
            12,
        ),
        # 2 x 4 completions are two whole groups of 4.
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_generations": 4},
            "training.generation_batch_size",
            8,
        ),
        ({"report_to": "wandb"}, "track.report_to", ("wandb",)),
        ({"report_to": ["tensorboard", "none"]}, "track.report_to", ("tensorboard",)),
        ({"report_to": None}, "track.report_to", ()),
        ({"project": "p"}, "track.project", "p"),
        ({"run_name": "first"}, "track.run_name", "first"),
        ({"steps_per_generation": 2, "gradient_accumulation_steps": 2}, "training.generation_batch_size", 16),
        ({"save_steps": 10}, "training.save_steps", 10),
        ({"save_steps": 10, "num_iterations": 2}, "training.save_steps", 5),
        ({"save_steps": 0.1, "max_steps": 50}, "training.save_steps", 5),
        ({"save_strategy": "no", "max_steps": 50}, "training.save_steps", 50),
        ({"save_strategy": "epoch"}, "training.save_steps", 100),
        ({"save_total_limit": 1}, "training.save_total_limit", 1),
    ],
)
def test_an_option_takes_effect(options: dict[str, Any], path: str, value: Any):
    assert at(config(**options), path) == value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"eval_strategy": "steps", "eval_steps": 20}, (40, 20, 8)),
        ({"eval_strategy": "steps"}, (40, 10, 8)),
        ({"eval_strategy": "steps", "logging_steps": 5}, (40, 5, 8)),
        ({"eval_strategy": "epoch", "num_generations_eval": 2}, (40, 100, 2)),
        ({"eval_on_start": True}, (40, 0, 8)),
        ({}, (0, 0, 8)),
    ],
)
def test_evaluation_options_take_effect(options: dict[str, Any], expected: tuple[int, int, int]):
    found = translated(dataclasses.replace(DATA, num_eval_rows=40), **options).config.evaluation
    assert (found.num_problems, found.eval_steps, found.num_samples) == expected


@pytest.mark.parametrize(("warmup", "updates"), [(1, 1), (1, 49), (7, 25), (14, 25), (15, 29), (29, 35), (21, 38)])
def test_warmup_steps_stay_whole_updates(warmup: int, updates: int):
    # In floating point, 1 / 49 * 49 is below 1, and 7 / 25 * 25 and the later ones above the whole number.
    ratio = config(max_steps=updates, warmup_steps=warmup).training.warmup_ratio
    assert math.ceil(ratio * updates) == warmup


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_prompt_length": 512}, "max_prompt_length=512: groat never cuts a prompt"),
        ({"bf16": True}, "bf16=True: weights and activations are 32-bit"),
        ({"bf16": False}, "bf16=False: weights and activations are 32-bit"),
        ({"logging_steps": 1}, "logging_steps=1: every step is logged"),
        (
            {"optim": "paged_adamw_8bit"},
            "optim='paged_adamw_8bit': it is groat's own 8-bit AdamW",
        ),
        ({"optim": "paged_adamw_32bit"}, "optim='paged_adamw_32bit': it is torch's 32-bit AdamW"),
        ({"generation_batch_size": 32}, "generation_batch_size=32: all of these completions make one update"),
        ({"num_iterations": 2, "max_steps": 9}, "num_iterations=2: 5 steps of 2 updates each"),
        ({"beta": 0.1}, "use_bias_correction_kl=True: the KL term is the paper's"),
        ({"use_bias_correction_kl": False}, "there is no KL term"),
        ({"loss_type": "cispo"}, "capped at the paper's 5"),
        ({"top_entropy_quantile": 0.2}, "of the tokens of the whole step"),
        ({"loss_type": "bnpo"}, "the same as 'dapo'"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "say constant_with_warmup"),
        ({"warmup_steps": 3, "warmup_ratio": 0.1}, "warmup_ratio=0.1: warmup_steps decides"),
        ({"save_strategy": "no"}, "one checkpoint is written at the end"),
        ({"eval_steps": 5}, "eval_steps=5: eval_strategy is 'no'"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "in 32 bits"),
        ({"vllm_gpu_memory_utilization": 0.9}, "vLLM is not used"),
        ({"vllm_sampling_params": QWEN3}, "vllm_sampling_params.seed=3407: seed decides"),
        ({"vllm_sampling_params": SamplingParams(temperature=0.5)}, "temperature=0.5: temperature decides"),
        ({"use_vllm": True}, "groat samples with the weights it trains; vLLM is not used"),
        ({"per_device_train_batch_size": 1}, "a group is sampled whole, so a step has 8 completions"),
        ({"log_completions": True}, "every completion is recorded"),
        ({"hub_token": "hf_secret"}, "hub_token=...: nothing is uploaded"),
    ],
)
def test_what_makes_no_difference_is_noted(options: dict[str, Any], words: str):
    [note] = translated(**options).notes
    assert words in note
    assert "secret" not in note


def test_every_option_takes_effect_or_says_why_not():
    read = "".join(
        map(
            inspect.getsource,
            (translate_module, steps_module, notes_module, trainer_module, grpo_module, algorithm_module),
        )
    )
    silent = [option.name for option in dataclasses.fields(GRPOConfig) if not option.metadata]
    assert [name for name in silent if not re.search(rf'args\.{name}\b|"{name}"', read)] == []


@pytest.mark.parametrize(
    "name", sorted(option.name for option in dataclasses.fields(GRPOConfig) if "refused" in option.metadata)
)
def test_every_refused_option_is_refused_by_name(name: str):
    default = GRPOConfig.__dataclass_fields__[name].default
    asking = {bool: True, float: 0.5, int: 3, str: "other", type(None): "other"}[type(default)]
    assert asking != default
    with pytest.raises(UserError, match=f"^GRPOConfig: {name} is {asking!r}: "):
        translated(**{name: asking})


@pytest.mark.parametrize(
    "name", sorted(option.name for option in dataclasses.fields(GRPOConfig) if "noted" in option.metadata)
)
def test_every_option_without_effect_is_noted_by_name(name: str):
    default = GRPOConfig.__dataclass_fields__[name].default
    asking = (not default) if isinstance(default, bool) else 1234
    [note] = translated(**{name: asking}).notes
    assert note.startswith(f"{name}=")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optim": "sgd"}, "optim is 'sgd': groat trains with AdamW"),
        ({"lr_scheduler_type": "polynomial"}, "lr_scheduler_type is 'polynomial': groat knows linear, cosine"),
        ({"vllm_sampling_params": {"top_p": 1}}, "vllm_sampling_params is a dict: give a groat.SamplingParams"),
        ({"report_to": "all"}, "report_to is 'all': groat reports to tensorboard, wandb, .*on_log"),
        ({"report_to": ["wandb", "comet_ml"]}, r"report_to is \['wandb', 'comet_ml'\]"),
        ({"save_strategy": "best"}, "save_strategy is 'best'"),
        ({"vllm_importance_sampling_mode": "token_mask"}, "vllm_importance_sampling_mode is 'token_mask'"),
        ({"vllm_importance_sampling_clip_max": None}, "importance_sampling_cap must be a number, got nothing"),
        ({"model_init_kwargs": {"load_in_4bit": True}}, "model_init_kwargs has load_in_4bit"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs has num_beams"),
        ({"eval_strategy": "steps"}, "eval_strategy is 'steps', but there is no eval_dataset"),
        ({"steps_per_generation": 4}, "steps_per_generation is 4, gradient_accumulation_steps 1"),
        (
            {"num_generations": 3},
            r"per_device_train_batch_size \(8\) x gradient_accumulation_steps \(1\) must be a mult",
        ),
        ({"generation_batch_size": 12}, r"generation_batch_size \(12\) must be a multiple of num_generations \(8\)"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be a whole number of at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be a whole number of at least 1, got 0"),
        ({"num_train_epochs": 0}, "num_train_epochs must be above 0, got 0"),
        ({"num_generations": 1}, "sampling.num_generations must be at least 2"),
        ({"learning_rate": "1e-5"}, "training.learning_rate must be a number, got '1e-5'"),
        ({"learning_rate": -1.0}, "training.learning_rate must be above 0"),
        ({"loss_type": "nope"}, "algorithm.loss_type must be one of .*'dapo'.*got 'nope'"),
        ({"loss_type": "luspo"}, "set algorithm.importance_sampling_level to sequence"),
        ({"multi_objective_aggregation": "sum"}, "algorithm.multi_objective_aggregation must be one of"),
        ({"importance_sampling_level": "sequence_token"}, "algorithm.importance_sampling_level must be one of"),
        ({"scale_rewards": "all"}, "algorithm.scale_rewards must be one of"),
        ({"budget": "lots"}, "memory.budget"),
        ({"reward_weights": [1, 2]}, "task.reward_weights has 2 values for 1"),
    ],
)
def test_what_groat_cannot_follow_is_refused_by_name(options: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        translated(**options)


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(TypeError, match=r"GRPOConfig has no option learnin_rate; did you mean learning_rate\?$"):
        GRPOConfig(learnin_rate=1)  # pyright: ignore
    with pytest.raises(TypeError, match=r"GRPOConfig has no option zzz$"):
        GRPOConfig(zzz=1)  # pyright: ignore


def test_options_can_be_set_after_the_fact_as_in_trl():
    args = GRPOConfig("out")
    args.max_steps = 3
    assert translate(args, "m", LoraConfig(), DATA).config.training.max_steps == 3
    assert args.output_dir == "out"


def test_numpy_numbers_are_numbers():
    assert config(learning_rate=np.float32(0.5), seed=np.int64(3)).training.learning_rate == 0.5
