"""GRPOConfig, RLOOConfig, OnlineDPOConfig, PPOConfig: the options of the trainers under TRL's names."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, ClassVar, Self

from groat.trainers.trl_options import LEAVE_OUT, NO_HUB, NO_VLLM, SWITCHED_OFF, TRLOptions, noted, refused


@dataclass(kw_only=True)
class RunOptions(TRLOptions):
    """What every trainer can be asked to do. These fields take effect; those inherited change nothing and say why."""

    counts_prompts: ClassVar[bool] = False
    """Whether per_device_train_batch_size counts prompts, not completions."""
    length_option: ClassVar[str] = "max_completion_length"
    """What TRL calls the longest completion."""

    output_dir: str | None = field(default=None, kw_only=False)
    """Folder of the run; None: a new one below runs/. `{name}` in it becomes model, task and a number not yet taken."""
    seed: int = 42
    disable_tqdm: bool | None = None
    """True: the console shows warnings only."""
    report_to: str | Sequence[str] | None = "none"
    """tensorboard, wandb, mlflow, trackio, or several of them; a run is recorded in its own folder in any case."""
    run_name: str | None = None
    """Of the run in those; None: that of its folder."""
    project: str = "huggingface"
    """Of the run in those."""

    learning_rate: float = 1e-6
    max_steps: int = -1
    """Updates of the weights; -1: as many as num_train_epochs make."""
    num_train_epochs: float = 3.0
    """Passes over train_dataset, the last step filled up; used while max_steps is -1."""
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    """per_device_train_batch_size x gradient_accumulation_steps completions are sampled in a step. How many are
    computed at once is planned from the memory there is, and changes no result."""
    generation_batch_size: int | None = None
    """Completions sampled in a step, instead of that product; all of them make one update."""
    steps_per_generation: int | None = None
    """gradient_accumulation_steps, or None."""
    lr_scheduler_type: str = "linear"
    """linear, cosine, constant or constant_with_warmup."""
    warmup_steps: float = 0
    """Updates over which the learning rate rises; below 1: their share."""
    warmup_ratio: float = 0.0
    optim: str = "adamw_torch_fused"
    """Any name that begins with adamw or paged_adamw: all of them are torch's 32-bit AdamW here."""
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | None = True

    num_generations: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    generation_kwargs: Mapping[str, Any] | None = None
    """`stop` (or `stop_strings`) and `min_new_tokens` (or `min_tokens`)."""
    vllm_sampling_params: Any = None
    """Unsloth's way to give top_p, top_k, min_p, repetition_penalty, stop and min_tokens: a SamplingParams."""
    shuffle_dataset: bool | None = True

    num_iterations: int = 1
    reward_weights: Sequence[float] | None = None

    save_strategy: str = "steps"
    """steps, epoch or no; a checkpoint is always written at the end."""
    save_steps: float = 500
    """Updates between checkpoints; below 1: their share of all updates."""
    save_total_limit: int | None = None
    eval_strategy: str = "no"
    """steps or epoch: evaluate before, during and after training; no: only when evaluate() is called."""
    eval_steps: float | None = None
    """Updates between evaluations; None: logging_steps."""
    eval_on_start: bool = False
    num_generations_eval: int | None = None
    """Completions per held-out prompt; None: num_generations."""

    model_init_kwargs: Mapping[str, Any] | None = None
    chat_template: str | None = None
    """File with a jinja chat template, instead of the model's own (groat only)."""
    cold_start: str | PathLike[str] | Mapping[str, Any] | None = None
    """Worked examples to learn before the first step: their file, or the options of a recipe's section `cold_start` by
    name, such as {"examples": "worked.jsonl", "num_train_epochs": 4} (groat only)."""
    budget: str | None = None
    """The most memory the process may hold, such as 3GiB (groat only)."""
    reward_timeout_seconds: float = 60.0
    """A reward call that takes longer ends the run with an error (groat only)."""

    @property
    def num_completions(self) -> int | None:
        """Completions to sample in all, where TRL's options can say so; None: max_steps or num_train_epochs decide."""
        return None

    def __new__(cls, *_: Any, **options: Any) -> Self:
        known = [option.name for option in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise TypeError(f"{cls.__name__} has no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().__new__(cls)


@dataclass(kw_only=True)
class GRPOConfig(RunOptions):
    """What a GRPOTrainer is asked to do, with the names and defaults of TRL's GRPOConfig.

    Not to be confused with `groat.config.algorithms.GRPOAlgorithmConfig`, the section `algorithm` of a recipe, which
    holds GRPO's own settings only. A GRPOConfig is translated into a whole RunConfig; the run's config.yaml shows it.
    """

    max_completion_length: int = 512
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    scale_rewards: str | bool = "group"
    multi_objective_aggregation: str = "sum_then_normalize"
    mask_truncated_completions: bool = False
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0
    off_policy_mask_threshold: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_k_pos: float = 2.0
    vespo_lambda_pos: float = 3.0
    vespo_k_neg: float = 3.0
    vespo_lambda_neg: float = 2.0
    max_tool_calling_iterations: int | None = None
    """Turns in which tools may be called; None: as many as fit into max_completion_length."""
    use_bias_correction_kl: bool = True
    vllm_importance_sampling_correction: bool = True
    """Correct for the difference between sampler and learner, which here is rounding only."""
    vllm_importance_sampling_mode: str = "sequence_mask"
    """groat truncates the weight of each token (token_truncate)."""
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_cap: float | None = None
    """The earlier name of vllm_importance_sampling_clip_max."""

    use_adaptive_entropy: bool = refused(False, "entropy_coef keeps its value; leave it out")
    entropy_coef_min: float = noted(0.0, SWITCHED_OFF)
    entropy_coef_max: float = noted(1.0, SWITCHED_OFF)
    entropy_coef_delta: float = noted(0.005, SWITCHED_OFF)
    entropy_target: float = noted(0.2, SWITCHED_OFF)
    vllm_importance_sampling_clip_min: float | None = refused(None, "weights are truncated from above only")
    cast_lm_head_to_fp32: bool = noted(False, "it is 32-bit already")
    log_completions_hub_repo: str | None = refused(None, f"{NO_HUB}; leave it out")


@dataclass(kw_only=True)
class RLOOConfig(RunOptions):
    """What an RLOOTrainer is asked to do, with the names and defaults of TRL's RLOOConfig."""

    num_generations: int = 2
    max_completion_length: int = 512
    beta: float = 0.05
    """What a nat of a completion's KL divergence takes off its reward."""
    epsilon: float = 0.2
    epsilon_high: float | None = None
    normalize_advantages: bool = False
    reward_clip_range: Sequence[float] | None = None
    mask_truncated_completions: bool = False


@dataclass(kw_only=True)
class OnlineDPOConfig(RunOptions):
    """What an OnlineDPOTrainer is asked to do, with the names and defaults of TRL's OnlineDPOConfig."""

    counts_prompts: ClassVar[bool] = True
    length_option: ClassVar[str] = "max_new_tokens"

    learning_rate: float = 5e-7
    num_generations: int = 2
    """Answers to a prompt; the best is preferred to the worst (groat only; TRL draws two)."""
    max_new_tokens: int = 64
    temperature: float = 0.9
    beta: float | Sequence[float] = 0.1
    """One number; TRL's list of one for each epoch is accepted with one entry."""
    loss_type: str = "sigmoid"
    missing_eos_penalty: float | None = None

    num_iterations: int = refused(1, "every pair makes one update; leave it at 1")
    max_length: int = noted(512, "groat never cuts a prompt; one that exceeds the model's context is an error")
    reward_model_path: str | None = refused(None, "groat runs functions only: call the model inside a reward function")
    disable_dropout: bool = noted(True, "there is no dropout in groat")
    vllm_gpu_memory_utilization: float = noted(0.55, f"{NO_VLLM}; groat plans memory itself (budget)")


_COMPUTED = "it follows from the other options, as in TRL"


@dataclass(kw_only=True)
class PPOConfig(RunOptions):
    """What a PPOTrainer is asked to do, with the names and defaults of TRL's experimental PPOConfig (TRL 1.12)."""

    length_option: ClassVar[str] = "response_length"

    learning_rate: float = 3e-6
    total_episodes: int | None = None
    """Completions sampled in all; None: max_steps or num_train_epochs decide."""
    num_generations: int = 1
    """Answers to a prompt (groat only; TRL draws one)."""
    response_length: int = 53
    temperature: float = 0.7
    num_ppo_epochs: int = 4
    num_mini_batches: int = 1
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    """Groat only; TRL always does."""
    missing_eos_penalty: float | None = None
    value_lora_r: int = 8
    """Rank of the value model's adapter on the shared weights (groat only)."""
    value_learning_rate: float | None = None
    """Of the value model; None: learning_rate (groat only)."""

    num_iterations: int = refused(1, "num_ppo_epochs and num_mini_batches say how many updates a step makes")
    stop_token: str | None = noted(None, "completions always end at the model's own stop tokens")
    stop_token_id: int | None = refused(
        None, "completions end at the model's own stop tokens; generation_kwargs has `stop` for texts"
    )
    reward_model_path: str | None = refused(None, "groat runs functions only: call the model inside a reward function")
    sft_model_path: str | None = refused(None, "give the trainer the model; it is the reference policy too")
    model_adapter_name: str | None = refused(None, LEAVE_OUT)
    ref_adapter_name: str | None = refused(None, "the reference policy is the model without its adapter; leave it out")
    local_rollout_forward_batch_size: int = noted(64, "groat plans memory itself (budget)")
    num_sample_generations: int = noted(10, "every completion is recorded in the run's folder: groat runs show RUN")
    dataset_num_proc: int | None = noted(None, "rows are taken as they are")
    world_size: int | None = noted(None, _COMPUTED)
    num_total_batches: int | None = noted(None, _COMPUTED)
    micro_batch_size: int | None = noted(None, _COMPUTED)
    local_batch_size: int | None = noted(None, _COMPUTED)
    batch_size: int | None = noted(None, _COMPUTED)
    local_mini_batch_size: int | None = noted(None, _COMPUTED)
    mini_batch_size: int | None = noted(None, _COMPUTED)

    @property
    def num_completions(self) -> int | None:
        return self.total_episodes
