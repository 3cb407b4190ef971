"""An entropy bonus that comes and goes: its coefficient moves so that the policy's entropy stays at a target.

Adaptive entropy control (Skywork-OR1, arXiv:2505.22312, section 3.2). How we differ: whether a step's loss has the
bonus is decided by the entropy of the step before it, which is known without a forward pass of its own, and the
coefficient never falls below 0. Nothing is kept but in the run's record: a resumed run counts again from there.
"""

from __future__ import annotations

from collections.abc import Iterable

from groat.algorithms.base import Algorithm
from groat.algorithms.grpo import GRPO
from groat.config.algorithms import GRPOAlgorithmConfig
from groat.config.tree import RunConfig


class EntropyControl:
    """The coefficient, step by step."""

    def __init__(self, start: float, target: float, step: float) -> None:
        self._target = target
        self._step = step
        self._coefficient = self.weight = start
        """`weight` is what the next step's loss uses: the coefficient, or 0 while there is entropy enough."""

    def learn(self, entropies: Iterable[float]) -> None:
        """Take in the mean entropies of the steps since the last call, in nats; one that is not a number moves
        nothing."""
        for entropy in entropies:
            if entropy < self._target:
                self._coefficient += self._step
            elif entropy > self._target:
                self._coefficient = max(0.0, self._coefficient - self._step)
            self.weight = 0.0 if entropy > self._target else self._coefficient

    def applied(self, algorithm: Algorithm) -> Algorithm:
        """The algorithm with the weight of now."""
        assert isinstance(algorithm, GRPO)
        return algorithm.with_entropy_coef(self.weight)


def entropy_control(config: RunConfig) -> EntropyControl | None:
    """None where the coefficient stays as it is set."""
    algorithm = config.algorithm
    if not isinstance(algorithm, GRPOAlgorithmConfig) or algorithm.entropy_target is None:
        return None
    return EntropyControl(algorithm.entropy_coef, algorithm.entropy_target, algorithm.entropy_coef_step)
