"""TRL's own trainers, as far as their losses go: made without a model, and told what its log-probs are.

Needs `pip install trl==1.16.0`; the tests that use it are skipped without.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from grpo_examples import Step
from torch import Tensor


class _OneProcess:
    """accelerate's Accelerator, where there is nobody to gather from."""

    num_processes, process_index, device = 1, 0, torch.device("cpu")
    sync_gradients = True

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    gather_for_metrics = gather

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor

    def pad_across_processes(self, tensor: Tensor, **_: Any) -> Tensor:
        return tensor

    def backward(self, loss: Tensor) -> None:
        self.loss = loss


def without_model(trainer_class: type, args: Any, **attributes: Any) -> Any:
    """An instance that has not been through __init__."""
    trainer = object.__new__(trainer_class)
    trainer.args = args
    trainer.accelerator = _OneProcess()
    trainer.model = SimpleNamespace(training=True)
    trainer.state = SimpleNamespace(global_step=0)
    trainer.current_gradient_accumulation_steps = 1
    trainer.aux_loss_enabled = False
    trainer.router_aux_loss_coef = 0.0
    trainer._metrics = {"train": defaultdict(list)}
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def grpo_loss(options: Mapping[str, Any], step: Step, advantages_B: Tensor, mask_BL: Tensor, cap: float) -> Tensor:
    """What GRPOTrainer's own loss gives to the whole step; `cap` truncates the weights of the sampler's tokens."""
    from trl import GRPOConfig, GRPOTrainer

    args = GRPOConfig(output_dir="unused", use_cpu=True, bf16=False, use_bias_correction_kl=False, **options)
    epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    names = ("loss_type", "beta", "num_iterations", "top_entropy_quantile", "off_policy_mask_threshold", "entropy_coef")
    trainer = without_model(
        GRPOTrainer,
        args,
        **{name: getattr(args, name) for name in names},
        importance_sampling_level=args.importance_sampling_level,
        max_completion_length=args.max_completion_length,
        epsilon_low=args.epsilon,
        epsilon_high=epsilon_high,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=args.entropy_coef != 0,
        _get_per_token_logps_and_entropies=lambda *_, **__: (step.logprobs_BL, step.entropies_BL, None),
    )
    difference_BL = (step.old_logprobs_BL - step.sampler_logprobs_BL) * mask_BL
    # TRL's loss type vespo and its mask of off-policy sequences look at the sampler's log-probs where it is vLLM.
    inputs = _tokens(mask_BL) | {
        "advantages": advantages_B,
        "old_per_token_logps": step.old_logprobs_BL,
        "ref_per_token_logps": step.reference_logprobs_BL,
        "importance_sampling_ratio": torch.exp(difference_BL).clamp(max=cap),
        "num_items_in_batch": mask_BL.sum(),
    }
    return trainer._compute_loss(None, inputs)


def rloo_loss(options: Mapping[str, Any], step: Step, advantages_B: Tensor, mask_BL: Tensor) -> Tensor:
    """What RLOOTrainer's own loss gives to the whole step."""
    from trl import RLOOConfig, RLOOTrainer

    args = RLOOConfig(output_dir="unused", use_cpu=True, bf16=False, **options)
    trainer = without_model(
        RLOOTrainer,
        args,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        _get_per_token_logps_and_entropies=lambda *_, **__: (step.logprobs_BL, step.entropies_BL, None),
    )
    inputs = _tokens(mask_BL) | {"advantages": advantages_B, "old_logps": (step.old_logprobs_BL * mask_BL).sum(1)}
    return trainer._compute_loss(None, inputs)


def online_dpo_loss(options: Mapping[str, Any], step: Step) -> Tensor:
    """What OnlineDPOTrainer's own training step gives to a step of pairs: of every group the first and the second."""
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    args = OnlineDPOConfig(output_dir="unused", use_cpu=True, bf16=False, **options)
    order = [*range(0, len(step.mask_BL), 2), *range(1, len(step.mask_BL), 2)]
    end_of_text, num_pairs = 7, len(order) // 2
    # A completion has its end's token unless it was truncated.
    ids_BL = torch.full(step.mask_BL.shape, 3)
    ids_BL[~step.truncated_B, 0] = end_of_text
    logprobs = iter([step.logprobs_BL[order], step.reference_logprobs_BL[order]])
    prompts = torch.ones(2 * num_pairs, 1, dtype=torch.long)
    mask_BL = step.mask_BL.long()
    trainer = without_model(
        OnlineDPOTrainer,
        args,
        model=SimpleNamespace(train=lambda: None),
        ref_model=object(),
        reward_funcs=[object()],
        eos_token_ids=[end_of_text],
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: ["text"] * len(ids)),
        stats=defaultdict(list),
        _beta=args.beta,
        _generate=lambda *_: (prompts, prompts, ids_BL[order], mask_BL[order], None),
        _forward=lambda *_: next(logprobs),
        _calculate_rewards_from_functions=lambda **_: step.rewards_B[order].clone(),
    )
    trainer.training_step(trainer.model, {"prompt": ["p"] * num_pairs})
    return trainer.accelerator.loss


def _tokens(mask_BL: Tensor) -> dict[str, Tensor]:
    ones_B1 = torch.ones(len(mask_BL), 1, dtype=torch.long)
    return {
        "prompt_ids": ones_B1,
        "prompt_mask": ones_B1,
        "completion_ids": torch.ones_like(mask_BL, dtype=torch.long),
        "completion_mask": mask_BL.long(),
    }
