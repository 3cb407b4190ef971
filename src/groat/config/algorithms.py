"""The section `algorithm`: one class per algorithm, told apart by `kind`. docs/algorithms.md has the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import tyro
from pydantic import Discriminator, Tag

from groat.config.strict import Strict, above_zero, at_least, within

_CLIPPED = ("grpo", "dr_grpo", "dapo", "bnpo", "luspo")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueOptions:
    """Of the value model that an algorithm trains beside the policy."""

    r: int
    """Rank of its adapter."""
    learning_rate: float | None
    """None: the policy's."""


class _Options(Strict):
    """What the memory plan asks of every algorithm."""

    __slots__ = ()

    @property
    def samples_per_loss(self) -> int:
        """Completions whose loss cannot be split between micro-batches."""
        return 1

    @property
    def trains_entropy(self) -> bool:
        """Whether the loss has a gradient through the entropy too, which the head then keeps beside the log-probs'."""
        return False

    @property
    def value_model(self) -> ValueOptions | None:
        """None: nothing is trained but the policy."""
        return None

    @property
    def shares_per_epoch(self) -> int:
        """Updates that a step's completions are shared out to."""
        return 1

    @property
    def least_generations(self) -> int:
        """Completions of a prompt that there must be, for they are compared with one another."""
        return 2


@dataclass(frozen=True, kw_only=True)
class GRPOAlgorithmConfig(_Options):
    """Group Relative Policy Optimization (arXiv:2402.03300) and its relatives."""

    kind: Annotated[Literal["grpo"], tyro.conf.arg(aliases=["--algorithm"])] = "grpo"
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """How token losses are formed and added up (docs/algorithms.md)."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio per token, or one per completion (GSPO, arXiv:2507.18071)."""
    beta: float = 0.0
    """Weight of the KL divergence to the reference policy (adapter off)."""
    num_iterations: int = 1
    """Updates per batch of completions."""
    epsilon: float = 0.2
    """The ratio is clipped below 1 - epsilon."""
    epsilon_high: float | None = None
    """The ratio is clipped above 1 + epsilon_high; None: epsilon. For cispo the cap itself; None: 5
    (arXiv:2506.13585)."""
    delta: float | None = None
    """Upper bound of the unclipped ratio (two-sided clipping, arXiv:2505.07291); None: no bound."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group's rewards, of the batch's, or not at all."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """With several reward functions: normalize their weighted sum, or each of them in its group before they are added
    up and scaled by the batch (GDPO, arXiv:2601.05242)."""
    mask_truncated_completions: bool = False
    """Leave completions that met max_completion_length out of the loss."""
    top_entropy_quantile: float = 1.0
    """Train only this share of the step's tokens: those with the highest entropy (arXiv:2506.01939)."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy, which the loss then rewards."""
    entropy_target: float | None = None
    """Entropy per token, in nats, below which the loss rewards entropy: entropy_coef then begins where it is set and
    moves after every step, up where the entropy was below the target and down where it was above (Skywork-OR1,
    arXiv:2505.22312, section 3.2). None: entropy_coef stays."""
    entropy_coef_step: float = 0.005
    """How far it moves."""
    off_policy_mask_threshold: float | None = None
    """Leave out completions with a negative advantage whose mean log-prob has fallen by more than this since they were
    drawn (arXiv:2512.02556, equation 9); with several iterations only. None: leave out none."""
    importance_sampling_correction: bool = True
    """Weight tokens by exp(old - sampler log-prob), truncated (TIS)."""
    importance_sampling_cap: float = 3.0
    """Where that weight is truncated."""
    sapo_temperature_pos: float = 1.0
    """How fast sapo's gate closes where the advantage is positive (arXiv:2511.20347)."""
    sapo_temperature_neg: float = 1.05
    """The same where it is negative."""
    vespo_k_pos: float = 2.0
    """vespo weights a completion by w^k exp(lambda (1 - w)), with w its ratio (arXiv:2602.10693); k where the advantage
    is not negative."""
    vespo_lambda_pos: float = 3.0
    """lambda where the advantage is not negative."""
    vespo_k_neg: float = 3.0
    """k where the advantage is negative."""
    vespo_lambda_neg: float = 2.0
    """lambda where the advantage is negative."""

    def __post_init__(self) -> None:
        at_least("algorithm.beta", self.beta, 0)
        at_least("algorithm.num_iterations", self.num_iterations, 1)
        at_least("algorithm.epsilon", self.epsilon, 0)
        at_least("algorithm.epsilon_high", self.epsilon_high, 0)
        above_zero("algorithm.delta", self.delta)
        above_zero("algorithm.importance_sampling_cap", self.importance_sampling_cap)
        above_zero("algorithm.off_policy_mask_threshold", self.off_policy_mask_threshold)
        at_least("algorithm.entropy_coef", self.entropy_coef, 0)
        above_zero("algorithm.entropy_target", self.entropy_target)
        above_zero("algorithm.entropy_coef_step", self.entropy_coef_step)
        within("algorithm.top_entropy_quantile", self.top_entropy_quantile, 1e-6, 1)
        for name in ("sapo_temperature_pos", "sapo_temperature_neg", "vespo_lambda_pos", "vespo_lambda_neg"):
            above_zero(f"algorithm.{name}", getattr(self, name))
        for name in ("vespo_k_pos", "vespo_k_neg"):
            at_least(f"algorithm.{name}", getattr(self, name), 0)
        self._check_combinations()

    @property
    def trains_entropy(self) -> bool:
        return self.entropy_coef > 0 or self.entropy_target is not None

    def _check_combinations(self) -> None:
        if self.delta is not None and self.loss_type not in _CLIPPED:
            raise ValueError(
                f"algorithm.delta bounds a clipped ratio, and algorithm.loss_type {self.loss_type} does not clip: take "
                f"delta out, or use one of {', '.join(_CLIPPED)}"
            )
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            raise ValueError(
                "algorithm.loss_type luspo weights whole completions: set algorithm.importance_sampling_level to "
                "sequence"
            )
        if self.loss_type == "vespo" and self.importance_sampling_level != "token":
            raise ValueError(
                "algorithm.loss_type vespo forms the ratio of a completion itself: leave "
                "algorithm.importance_sampling_level at token"
            )
        if self.trains_entropy and self.top_entropy_quantile < 1:
            raise ValueError(
                "algorithm.entropy_coef (or entropy_target) and algorithm.top_entropy_quantile cannot be had together: "
                "the first rewards entropy on every token, the second trains only tokens that have much of it; take "
                "one of them out"
            )


@dataclass(frozen=True, kw_only=True)
class RLOOAlgorithmConfig(_Options):
    """REINFORCE with the other answers' mean reward as the baseline, KL in the reward (arXiv:2402.14740)."""

    kind: Annotated[Literal["rloo"], tyro.conf.arg(aliases=["--algorithm"])] = "rloo"
    beta: float = 0.05
    """What a nat of a completion's KL divergence from the reference policy (adapter off) takes off its reward."""
    num_iterations: int = 1
    """Updates per batch of completions."""
    epsilon: float = 0.2
    """A completion's ratio is clipped below 1 - epsilon."""
    epsilon_high: float | None = None
    """A completion's ratio is clipped above 1 + epsilon_high; None: epsilon."""
    normalize_advantages: bool = False
    """Divide advantages by their standard deviation over the step."""
    reward_clip_range: tuple[float, float] | None = None
    """Lowest and highest reward, before the KL term; None: as they come."""
    mask_truncated_completions: bool = False
    """Leave completions that met max_completion_length out of the loss."""

    def __post_init__(self) -> None:
        at_least("algorithm.beta", self.beta, 0)
        at_least("algorithm.num_iterations", self.num_iterations, 1)
        within("algorithm.epsilon", self.epsilon, 0, 1)
        at_least("algorithm.epsilon_high", self.epsilon_high, 0)
        if self.reward_clip_range is not None and not self.reward_clip_range[0] < self.reward_clip_range[1]:
            low, high = self.reward_clip_range
            raise ValueError(f"algorithm.reward_clip_range must rise, such as [-1, 1]; got [{low:g}, {high:g}]")


@dataclass(frozen=True, kw_only=True)
class ReinforceAlgorithmConfig(_Options):
    """REINFORCE++ (arXiv:2501.03262): advantages normalized over all tokens of the step, no value model."""

    kind: Annotated[Literal["reinforce++"], tyro.conf.arg(aliases=["--algorithm"])] = "reinforce++"
    baseline: Literal["group", "none"] = "group"
    """What is taken off a reward before it is normalized over the step: its group's mean (REINFORCE++-baseline), or
    nothing (REINFORCE++)."""
    beta: float = 0.0
    """Weight of the KL divergence to the reference policy (adapter off): in the loss with the baseline group, else in
    the reward of every token and those before it."""
    num_iterations: int = 1
    """Updates per batch of completions."""
    epsilon: float = 0.2
    """The ratio is clipped below 1 - epsilon."""
    epsilon_high: float | None = None
    """The ratio is clipped above 1 + epsilon_high; None: epsilon."""
    mask_truncated_completions: bool = False
    """Leave completions that met max_completion_length out of the loss."""

    def __post_init__(self) -> None:
        at_least("algorithm.beta", self.beta, 0)
        at_least("algorithm.num_iterations", self.num_iterations, 1)
        within("algorithm.epsilon", self.epsilon, 0, 1)
        at_least("algorithm.epsilon_high", self.epsilon_high, 0)


@dataclass(frozen=True, kw_only=True)
class OnlineDPOAlgorithmConfig(_Options):
    """Online DPO (arXiv:2402.04792): of each group the best answer is preferred to the worst."""

    kind: Annotated[Literal["online_dpo"], tyro.conf.arg(aliases=["--algorithm"])] = "online_dpo"
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    """DPO's loss (arXiv:2305.18290), or IPO's (arXiv:2310.12036)."""
    beta: float = 0.1
    """How closely the policy is held to the reference policy (adapter off); for ipo the paper's tau."""
    missing_eos_penalty: float | None = None
    """Taken off the reward of a completion that met max_completion_length."""

    def __post_init__(self) -> None:
        above_zero("algorithm.beta", self.beta)
        above_zero("algorithm.missing_eos_penalty", self.missing_eos_penalty)

    @property
    def num_iterations(self) -> int:
        """Updates per batch of completions."""
        return 1

    @property
    def samples_per_loss(self) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class PPOAlgorithmConfig(_Options):
    """Proximal Policy Optimization (arXiv:1707.06347, arXiv:1909.08593) with a value model on the shared trunk."""

    kind: Annotated[Literal["ppo"], tyro.conf.arg(aliases=["--algorithm"])] = "ppo"
    num_ppo_epochs: int = 4
    """Times that every completion of a step is learned from."""
    num_mini_batches: int = 1
    """Updates of such an epoch, each from its own share of the completions."""
    kl_coef: float = 0.05
    """What a nat of divergence from the reference policy (adapter off) at a token takes off that token's reward."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    """How it is estimated: k1, the log-ratio; k3, which is never negative (http://joschu.net/blog/kl-approx.html)."""
    cliprange: float = 0.2
    """The ratio is clipped to 1 - cliprange and 1 + cliprange."""
    vf_coef: float = 0.1
    """Weight of the value model's loss. Its weights and their AdamW are its own, so that it hardly matters: see
    value_learning_rate."""
    cliprange_value: float = 0.2
    """Values gain nothing by moving farther than this from what they were before the first update."""
    gamma: float = 1.0
    """How much a reward one token later is worth."""
    lam: float = 0.95
    """Of generalized advantage estimation (arXiv:1506.02438): 1 trusts the rewards alone, 0 the value model."""
    whiten_rewards: bool = False
    """Give the rewards of all tokens of the step a standard deviation of 1, and leave their mean."""
    whiten_advantages: bool = True
    """Give the advantages of all tokens of the step a mean of 0 and a standard deviation of 1."""
    missing_eos_penalty: float | None = None
    """Taken off the reward of a completion that met max_completion_length."""
    value_lora_r: int = 8
    """Rank of the value model's adapter, which is scaled as the policy's is."""
    value_learning_rate: float | None = None
    """Of the value model, on the schedule of training.learning_rate; None: the same rate."""

    def __post_init__(self) -> None:
        at_least("algorithm.num_ppo_epochs", self.num_ppo_epochs, 1)
        at_least("algorithm.num_mini_batches", self.num_mini_batches, 1)
        at_least("algorithm.kl_coef", self.kl_coef, 0)
        within("algorithm.cliprange", self.cliprange, 0, 1)
        at_least("algorithm.vf_coef", self.vf_coef, 0)
        above_zero("algorithm.cliprange_value", self.cliprange_value)
        within("algorithm.gamma", self.gamma, 0, 1)
        within("algorithm.lam", self.lam, 0, 1)
        above_zero("algorithm.missing_eos_penalty", self.missing_eos_penalty)
        at_least("algorithm.value_lora_r", self.value_lora_r, 1)
        above_zero("algorithm.value_learning_rate", self.value_learning_rate)

    @property
    def beta(self) -> float:
        """What the other algorithms call `kl_coef`."""
        return self.kl_coef

    @property
    def num_iterations(self) -> int:
        """Updates per batch of completions."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def value_model(self) -> ValueOptions:
        return ValueOptions(r=self.value_lora_r, learning_rate=self.value_learning_rate)

    @property
    def shares_per_epoch(self) -> int:
        return self.num_mini_batches

    @property
    def least_generations(self) -> int:
        return 1


def _kind_of(value: object) -> str:
    """Which class a section is meant for; a recipe that does not say is GRPO's."""
    given = cast("Mapping[str, Any]", value).get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "grpo" if given is None else str(given)


AlgorithmConfig = Annotated[
    Annotated[GRPOAlgorithmConfig, Tag("grpo")]
    | Annotated[RLOOAlgorithmConfig, Tag("rloo")]
    | Annotated[ReinforceAlgorithmConfig, Tag("reinforce++")]
    | Annotated[OnlineDPOAlgorithmConfig, Tag("online_dpo")]
    | Annotated[PPOAlgorithmConfig, Tag("ppo")],
    Discriminator(_kind_of),
]
"""One class per algorithm family, told apart by `kind`."""

ALGORITHMS: Mapping[str, type[AlgorithmConfig]] = {
    options.kind: options
    for options in (
        GRPOAlgorithmConfig,
        RLOOAlgorithmConfig,
        ReinforceAlgorithmConfig,
        OnlineDPOAlgorithmConfig,
        PPOAlgorithmConfig,
    )
}
"""The classes by their `kind`."""
