"""From a trainer's own options to the section `algorithm` of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from groat.trainers.config import GRPOConfig, OnlineDPOConfig, PPOConfig, RLOOConfig, RunOptions
from groat.trainers.trl_options import plain

_GRPO = (
    "beta",
    "num_iterations",
    "epsilon",
    "epsilon_high",
    "delta",
    "importance_sampling_level",
    "multi_objective_aggregation",
    "mask_truncated_completions",
    "top_entropy_quantile",
    "entropy_coef",
    "off_policy_mask_threshold",
    "sapo_temperature_pos",
    "sapo_temperature_neg",
    "vespo_k_pos",
    "vespo_lambda_pos",
    "vespo_k_neg",
    "vespo_lambda_neg",
)
_RLOO = ("beta", "num_iterations", "epsilon", "epsilon_high", "normalize_advantages", "mask_truncated_completions")
_PPO = (
    "num_ppo_epochs",
    "num_mini_batches",
    "kl_coef",
    "kl_estimator",
    "cliprange",
    "cliprange_value",
    "vf_coef",
    "gamma",
    "lam",
    "whiten_rewards",
    "whiten_advantages",
    "missing_eos_penalty",
    "value_lora_r",
    "value_learning_rate",
)


def algorithm_section(args: RunOptions) -> Mapping[str, Any]:
    """What the options ask of the algorithm, by the names of a recipe."""
    match args:
        case GRPOConfig():
            return _grpo(args)
        case RLOOConfig():
            bounds = args.reward_clip_range
            section = {name: getattr(args, name) for name in _RLOO}
            return section | {"kind": "rloo", "reward_clip_range": None if bounds is None else list(bounds)}
        case OnlineDPOConfig():
            [beta] = _betas(args)
            return {
                "kind": "online_dpo",
                "beta": beta,
                "loss_type": plain(args.loss_type),
                "missing_eos_penalty": args.missing_eos_penalty,
            }
        case PPOConfig():
            return {name: getattr(args, name) for name in _PPO} | {"kind": "ppo"}
        case _:
            raise TypeError(
                f"args must be a GRPOConfig, RLOOConfig, OnlineDPOConfig or PPOConfig, got {type(args).__name__}"
            )


def algorithm_problems(args: RunOptions) -> list[str]:
    """Values that a recipe could not even hold."""
    problems: list[str] = []
    if isinstance(args, GRPOConfig) and args.vllm_importance_sampling_mode not in ("sequence_mask", "token_truncate"):
        problems.append(
            f"vllm_importance_sampling_mode is {args.vllm_importance_sampling_mode!r}: groat knows sequence_mask, "
            "token_truncate"
        )
    if isinstance(args, OnlineDPOConfig) and len(_betas(args)) != 1:
        problems.append(f"beta is {args.beta!r}: groat has one beta for the whole run; give a number")
    return problems


def algorithm_notes(args: RunOptions) -> Iterator[str]:
    """Options of the algorithm that take effect, but not quite as they do in TRL."""
    if not isinstance(args, GRPOConfig):
        return
    if args.beta and args.use_bias_correction_kl:
        yield "use_bias_correction_kl=True: the KL term is the paper's, which is TRL's use_bias_correction_kl=False"
    if not args.beta and not args.use_bias_correction_kl:
        yield "use_bias_correction_kl=False: there is no KL term, as beta is 0"
    if args.loss_type == "cispo" and args.epsilon_high is None:
        yield "loss_type='cispo': the ratio is capped at the paper's 5, not at TRL's epsilon; epsilon_high sets it"
    if args.loss_type == "bnpo":
        yield "loss_type='bnpo': tokens are counted over the whole step, so it is the same as 'dapo'"
    if args.top_entropy_quantile != 1:
        yield (
            f"top_entropy_quantile={args.top_entropy_quantile}: of the tokens of the whole step, by their entropies "
            "before its first update"
        )


def _grpo(args: GRPOConfig) -> dict[str, Any]:
    scale = {True: "group", False: "none"}.get(cast(bool, args.scale_rewards), args.scale_rewards)
    cap = args.vllm_importance_sampling_cap
    return {name: getattr(args, name) for name in _GRPO} | {
        "kind": "grpo",
        "loss_type": plain(args.loss_type),
        "scale_rewards": scale,
        "importance_sampling_correction": args.vllm_importance_sampling_correction,
        "importance_sampling_cap": args.vllm_importance_sampling_clip_max if cap is None else cap,
    }


def _betas(args: OnlineDPOConfig) -> list[Any]:
    return list(args.beta) if isinstance(args.beta, Sequence) else [args.beta]
