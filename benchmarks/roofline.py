"""The least time that work can take: the bytes it must read and the operations it must do, at the machine's rates.

Counted is what the work needs, however it is done: weights are read once a decode step, keys and values of a token
that several sequences share once for all of them, tokens that samples share are learned from once, and nothing is
computed again. The roofline is the larger of two sums, the seconds of all bytes and the seconds of all operations:
shorter, hence stricter, than adding up the larger of the two for each part, which would not let one part read while
another computes. What is small is left out: norms, biases, rotations, the embedding's rows, drawing tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.rates import Rates
from groat.memory.sizes import adapter_bytes, kv_bytes, matrices, matrix_bytes
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import Compute, KVStorage

_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is computed with."""

    spec: ModelSpec
    storage: Storage
    compute: Compute
    """Of products with the frozen weights; all else is in f32."""
    kv_cache: KVStorage
    """How the sampler keeps keys and values."""
    rank: int
    """Of the adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the work."""

    name: str
    num_bytes: float
    """Read, at the least."""
    num_operations: float
    """Multiplications and additions."""
    compute: Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Seconds, if reading and computing ran at full rate."""

    byte_seconds: float
    operation_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.byte_seconds, self.operation_seconds)


def roofline(parts: Sequence[Part], rates: Rates, round_bytes: float | None = None) -> Roofline:
    """Of these parts together; each computes at the rate of its own kind of product.

    `round_bytes` are read before the same come again, which decides whether a cache can hold them; None: the parts'.
    """
    num_bytes = sum(part.num_bytes for part in parts)
    return Roofline(
        byte_seconds=num_bytes / rates.bytes_per_second(num_bytes if round_bytes is None else round_bytes),
        operation_seconds=sum(part.num_operations / rates.products[part.compute] for part in parts),
    )


def least_seconds(parts: Sequence[Part], rates: Rates) -> dict[str, float]:
    """Of each part by its name, as a part of the round that they all make."""
    round_bytes = sum(part.num_bytes for part in parts)
    return {part.name: roofline([part], rates, round_bytes).seconds for part in parts}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeStep:
    """A token for each of some sequences."""

    num_sequences: int
    own_tokens: float
    """Drawn so far for each, on average over the steps that are meant."""
    prompt_tokens: int
    """Of all sequences together, each sequence's counted on its own."""
    unique_prompt_tokens: int
    """What these come to when those that sequences share are counted once."""


def decode_parts(policy: Policy, step: DecodeStep) -> tuple[Part, ...]:
    spec, sequences = policy.spec, step.num_sequences
    own = sequences * step.own_tokens
    pair_operations = 4 * spec.num_layers * spec.query_size  # a query with a key, and its share of a value
    return (
        _base("layers", policy, 2 * sequences),
        _adapter(policy, 2 * sequences),
        Part(
            name="attention",
            num_bytes=(own + step.unique_prompt_tokens) * kv_bytes(spec, policy.kv_cache),
            num_operations=(own + step.prompt_tokens) * pair_operations,
            compute="f32",
        ),
        _base("head", policy, 2 * sequences),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a step learns from. Tokens that samples share are counted once."""

    tokens: int
    """Prompts and completions, without each completion's last token, which predicts nothing."""
    attended: int
    """Added up over them: the tokens that each attends to, itself included."""
    targets: int
    """Completion tokens, whose log-probs are trained."""


def learning_parts(policy: Policy, work: Learning) -> tuple[Part, ...]:
    """Forward, gradients of inputs, gradients of the adapter. In the first layer the gradient of qkv's input is
    counted though nothing needs it, half a percent of SmolLM2's."""
    spec = policy.spec
    pair_operations = 12 * spec.num_layers * spec.query_size  # two products forward, four backward
    return (
        _base("layers", policy, 4 * work.tokens, times_read=2),
        _adapter(policy, 6 * work.tokens, times_read=2),
        Part(
            name="attention",
            num_bytes=2 * work.tokens * kv_bytes(spec, "f32"),
            num_operations=work.attended * pair_operations,
            compute="f32",
        ),
        _base("head", policy, 4 * work.targets),
    )


def _base(name: str, policy: Policy, operations_per_weight: int, times_read: int = 1) -> Part:
    """Products with the frozen matrices of all layers, or with the head."""
    shapes = matrices(policy.spec)
    if name == "head":
        names = ["embedding" if policy.spec.tied_head else "head"]
    else:
        names = [matrix for matrix in shapes if matrix.startswith("layers.")]
    return Part(
        name=name,
        num_bytes=times_read * sum(matrix_bytes(*shapes[matrix], policy.storage.kind_of(matrix)) for matrix in names),
        num_operations=operations_per_weight * sum(rows * columns for rows, columns in map(shapes.__getitem__, names)),
        compute=policy.compute,
    )


def _adapter(policy: Policy, operations_per_weight: int, times_read: int = 1) -> Part:
    num_bytes = adapter_bytes(policy.spec, policy.rank)
    return Part(
        name="adapter",
        num_bytes=times_read * num_bytes,
        num_operations=operations_per_weight * (num_bytes // _FLOAT),
        compute="f32",
    )
