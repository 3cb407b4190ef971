"""GRPOConfig: the options of a GRPOTrainer under TRL's names."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from groat.trainers.trl_options import TRLOptions


@dataclass(kw_only=True)
class GRPOConfig(TRLOptions):
    """What a GRPOTrainer is asked to do, with the names and defaults of TRL's GRPOConfig.

    Not to be confused with `groat.config.tree.GRPOAlgorithmConfig`, the section `algorithm` of a recipe, which holds
    GRPO's own settings only. A GRPOConfig is translated into a whole RunConfig; the run's config.yaml shows the result.
    These fields take effect; those inherited from TRLOptions change nothing here and say why.
    """

    output_dir: str | None = field(default=None, kw_only=False)
    """Folder of the run; None: a new one below runs/. `{name}` in it becomes model, task and a number not yet taken."""
    seed: int = 42
    disable_tqdm: bool | None = None
    """True: the console shows warnings only."""
    report_to: str | Sequence[str] | None = "none"
    """`none` is all there is: a run is recorded in its own folder."""

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
    max_completion_length: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    generation_kwargs: Mapping[str, Any] | None = None
    """`stop` (or `stop_strings`) and `min_new_tokens` (or `min_tokens`)."""
    shuffle_dataset: bool | None = True

    beta: float = 0.0
    num_iterations: int = 1
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    loss_type: str = "dapo"
    importance_sampling_level: str = "token"
    scale_rewards: str | bool = "group"
    reward_weights: Sequence[float] | None = None
    mask_truncated_completions: bool = False
    use_bias_correction_kl: bool = True
    vllm_importance_sampling_correction: bool = True
    """Correct for the difference between sampler and learner, which here is rounding only."""
    vllm_importance_sampling_mode: str = "sequence_mask"
    """groat truncates the weight of each token (token_truncate)."""
    vllm_importance_sampling_clip_max: float | None = 3.0
    vllm_importance_sampling_cap: float | None = None
    """The earlier name of vllm_importance_sampling_clip_max."""

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
    budget: str | None = None
    """The most memory the process may hold, such as 3GiB (groat only)."""
    reward_timeout_seconds: float = 60.0
    """A reward call that takes longer ends the run with an error (groat only)."""

    def __new__(cls, *_: Any, **options: Any) -> Self:
        known = [option.name for option in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise TypeError(f"GRPOConfig has no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().__new__(cls)
