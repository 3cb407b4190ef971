"""TRL 1.16's formulas for GRPO, stated again on padded tensors: [B, L] with a mask, the step in one micro-batch.

With TRL's vllm_importance_sampling_mode="token_truncate" and use_bias_correction_kl=False.
"""

from __future__ import annotations

import torch
from grpo_examples import Step
from torch import Tensor

from groat.config.tree import GRPOAlgorithmConfig


def trl_advantages(rewards_B: Tensor, group_size: int, scale_rewards: str) -> Tensor:
    rewards_PG = rewards_B.view(-1, group_size)
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if scale_rewards == "group":
        centred_PG = centred_PG / (rewards_PG.std(1, keepdim=True) + 1e-4)
    elif scale_rewards == "batch":
        centred_PG = centred_PG / (rewards_B.std() + 1e-4)
    return centred_PG.flatten()


def trl_loss(config: GRPOAlgorithmConfig, step: Step, max_completion_length: int, *, old_is_known: bool) -> Tensor:
    mask_BL = step.mask_BL.double()
    if config.mask_truncated_completions:
        mask_BL = mask_BL * ~step.truncated_B[:, None]
    advantages_B1 = trl_advantages(step.rewards_B, len(step.groups[0].completions), config.scale_rewards)[:, None]
    old_BL = step.old_logprobs_BL if old_is_known else step.logprobs_BL.detach()
    per_token_BL = _policy_term(config, step.logprobs_BL, old_BL, advantages_B1, mask_BL)
    if config.importance_sampling_correction:
        weights_BL = torch.exp((old_BL - step.sampler_logprobs_BL) * mask_BL)
        per_token_BL = per_token_BL * torch.clamp(weights_BL, max=config.importance_sampling_cap)
    if config.beta:
        gap_BL = step.reference_logprobs_BL - step.logprobs_BL
        per_token_BL = per_token_BL + config.beta * (torch.exp(gap_BL) - gap_BL - 1)
    masked_BL = per_token_BL * mask_BL
    if config.loss_type == "grpo":
        return (masked_BL.sum(-1) / mask_BL.sum(-1).clamp(min=1)).mean()
    if config.loss_type == "dr_grpo":
        return masked_BL.sum() / (len(masked_BL) * max_completion_length)
    return masked_BL.sum() / mask_BL.sum()


def _policy_term(
    config: GRPOAlgorithmConfig, logprobs_BL: Tensor, old_BL: Tensor, advantages_B1: Tensor, mask_BL: Tensor
) -> Tensor:
    ratio = torch.exp(logprobs_BL - old_BL)
    if config.importance_sampling_level == "sequence":
        mean_B1 = ((logprobs_BL - old_BL) * mask_BL).sum(-1, keepdim=True) / mask_BL.sum(-1, keepdim=True).clamp(min=1)
        ratio = torch.exp(mean_B1)
    epsilon_high = config.epsilon if config.epsilon_high is None else config.epsilon_high
    if config.loss_type == "cispo":
        return -torch.clamp(ratio, max=epsilon_high).detach() * advantages_B1 * logprobs_BL
    clipped = torch.clamp(ratio, 1 - config.epsilon, 1 + epsilon_high)
    if config.delta is not None:
        ratio = torch.clamp(ratio, max=config.delta)
    return -torch.min(ratio * advantages_B1, clipped * advantages_B1)
