"""What is watched while training: failures that would otherwise be silent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch

from groat.model.lora import Adapter, LayerAdapter, LoraPair
from groat.sampling.base import Sampler, SamplingParams
from groat.types import Prompt, UserError


class CheckError(UserError):
    """A check says that what is trained is not what is sampled."""


def check_policy_canary(sampler: Sampler, prompt: Prompt, adapter: Adapter, params: SamplingParams) -> None:
    """Make sure that the sampler follows the adapter: a perturbed one must move the log-probs of the next token.

    Rollouts that silently ignore the adapter are a known failure of RL stacks with a separate sampler.
    """
    params = replace(params, num_generations=1, temperature=0.0, max_completion_length=1, min_completion_length=0)

    def logprob(policy: Adapter) -> float:
        with sampler.awake():
            return sampler.sample([prompt], policy, params, [0])[0].completions[0].policy_logprobs[0]

    plain, moved = logprob(adapter), logprob(perturbed(adapter))
    if not math.isfinite(plain):
        raise CheckError(
            f"the model's first log-prob is {plain}: its weights hold values that are not finite. Get the model again"
        )
    if abs(plain - moved) < 1e-7:
        raise CheckError(
            f"policy canary: a perturbed adapter leaves the sampler's log-prob at {plain:.6f}, so the sampler does not "
            "follow the adapter and training would change nothing; this is a bug in the sampler, please report it"
        )


def perturbed(adapter: Adapter, size: float = 0.05) -> Adapter:
    """The adapter with noise on every B; the adapter itself stays as it is."""
    generator = torch.Generator().manual_seed(0)

    def pair(pair: LoraPair) -> LoraPair:
        noisy = (b.detach() + size * torch.randn(b.shape, generator=generator) for b in pair.bs_NR)
        return LoraPair(a_RK=pair.a_RK.detach(), bs_NR=tuple(noisy))

    def layer(layer: LayerAdapter) -> LayerAdapter:
        return LayerAdapter(
            qkv=pair(layer.qkv), output=pair(layer.output), gate_up=pair(layer.gate_up), down=pair(layer.down)
        )

    return replace(adapter, layers=tuple(layer(one) for one in adapter.layers))


def logprob_metrics(differences: Sequence[float]) -> dict[str, float]:
    """How far sampler and learner are apart, over a step's trained tokens, in nats."""
    sizes = [abs(difference) for difference in differences]
    if not sizes:
        return {}
    return {
        "sampling/sampling_logp_difference/mean": statistics.fmean(sizes),
        # max() alone would pass over nan.
        "sampling/sampling_logp_difference/max": max(sizes, key=lambda size: math.inf if math.isnan(size) else size),
    }


def check_logprob_difference(largest: float, limit: float) -> str | None:
    """A warning where the difference exceeds its limit; CheckError at ten times the limit."""
    if largest <= limit:
        return None
    words = f"sampler and learner log-probs differ by up to {largest:.2g} nats (limit {limit:.2g})"
    if largest > 10 * limit:
        raise CheckError(f"{words}: the policy that is sampled is not the policy that is trained. The run was stopped")
    return words
