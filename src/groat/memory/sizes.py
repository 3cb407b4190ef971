"""How many bytes each part of a run holds, one function per part; all is fp32 but the frozen weights."""

from __future__ import annotations

from groat.model.modules import linear_modules
from groat.model.recompute import Recompute
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.types import KVStorage, Optim, StorageKind

_FLOAT = 4
_PLAIN = Storage()
_READ_AT_ONCE = 32 * 2**20
"""Rows read at one time as the file has them, in fp32, and being stored; and the scales of an NF4 matrix."""
_ROUNDED_ROW = 512
"""Numbers that a quantized product rounds a block of a row in, beside the row itself."""
HEAD_ROWS = 64
"""Tokens whose logits exist at one time while sensitivities are measured."""
FRAMEWORK = 290 * 2**20
"""Python, torch, its libraries and groat, measured after some steps on a CPU."""
FRAMEWORK_LATER = 38 * 2**20
"""The part of it that comes after planning: the first products, gradients and files."""
TOKENIZER_SHARE = 4.5
"""A tokenizer's bytes in memory for each byte of its file."""
SPARE_ROOMS = 32 * 2**20
"""Without a budget, results are given so much more memory than they take at one time, rather than mapped anew."""


def matrix_bytes(rows: int, columns: int, kind: StorageKind, plain_scales: bool = False) -> int:
    """One frozen matrix: int8 lies in tiles of 32 x 64 with a bf16 scale for 128 weights; NF4 has a byte per 64
    weights, and two numbers per 256 of those. Plain scales are fp32, for a row of int8 and 64 weights of NF4."""
    weights = rows * columns
    match kind:
        case "f32":
            return 4 * weights
        case "bf16":
            return 2 * weights
        case "int8":
            blocks = -(-columns // 64)
            return weights + 4 * rows if plain_scales else -(-rows // 32) * 32 * (64 * blocks + 2 * -(-blocks // 2))
        case "nf4":
            blocks = -(-weights // 64)
            return -(-weights // 2) + (4 * blocks if plain_scales else blocks + 8 * -(-blocks // 256))


def matrices(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """Rows and columns of every frozen matrix, by the names of `Storage`."""
    hidden, inner = spec.hidden_size, spec.intermediate_size
    shapes = {"embedding": (spec.vocab_size, hidden)}
    if not spec.tied_head:
        shapes["head"] = (spec.vocab_size, hidden)
    for index in range(spec.num_layers):
        shapes[f"layers.{index}.qkv"] = (spec.query_size + 2 * spec.kv_size, hidden)
        shapes[f"layers.{index}.output"] = (hidden, spec.query_size)
        shapes[f"layers.{index}.gate_up"] = (2 * inner, hidden)
        shapes[f"layers.{index}.down"] = (hidden, inner)
    return shapes


def weight_bytes(spec: ModelSpec, storage: Storage = _PLAIN) -> int:
    """The frozen base; norms and biases are too small to count."""
    return sum(_kept_bytes(name, shape, storage) for name, shape in matrices(spec).items())


def loading_bytes(spec: ModelSpec, storage: Storage) -> int:
    """The most that loading holds: what is stored by then, and what a matrix is read in."""
    held = most = 0
    for name, shape in matrices(spec).items():
        held += _kept_bytes(name, shape, storage)
        most = max(most, held + reading_bytes(shape, whole=storage.calibrated and storage.kind_of(name) == "nf4"))
    return most


def reading_bytes(shape: tuple[int, int], *, whole: bool) -> int:
    """What is held beside a matrix that is being stored: some rows. NF4 that is rounded for its inputs is read whole in
    fp32, and takes a byte per weight meanwhile."""
    all_of_it = 5 * shape[0] * shape[1]
    return all_of_it if whole else min(all_of_it, _READ_AT_ONCE)


def _kept_bytes(name: str, shape: tuple[int, int], storage: Storage) -> int:
    return matrix_bytes(*shape, storage.kind_of(name), name in storage.plain_scales)


def adapter_bytes(spec: ModelSpec, rank: int) -> int:
    """The trained weights alone; gradients take as much again, AdamW's two moments twice as much."""
    modules = [module for parts in linear_modules(spec).values() for module in parts]
    return _FLOAT * spec.num_layers * rank * sum(module.num_in + module.num_out for module in modules)


def value_model_bytes(spec: ModelSpec, rank: int) -> int:
    """The trained weights of a value model, an adapter and a head; 0 where there is none, which is rank 0."""
    return adapter_bytes(spec, rank) + _FLOAT * (spec.hidden_size + 1) if rank else 0


def optimizer_bytes(trained_bytes: int, optim: Optim) -> int:
    """AdamW's two moments of so many bytes of trained weights; in 8 bits, each has a scale for 256 numbers."""
    numbers = 2 * trained_bytes // _FLOAT
    return numbers + numbers // 64 if optim == "adamw_8bit" else _FLOAT * numbers


def layer_input_bytes(spec: ModelSpec, recompute: Recompute) -> int:
    """Per token: the inputs that gradient checkpointing keeps."""
    num_inputs = -(-spec.num_layers // recompute.every)
    return (2 if recompute.saved_inputs == "bf16" else _FLOAT) * num_inputs * spec.hidden_size


def layer_activation_bytes(spec: ModelSpec, rank: int) -> int:
    """Per token: what one layer keeps for its backward (norms and SwiGLU are computed again)."""
    kept = 2 * spec.hidden_size + 2 * spec.query_size + 2 * spec.kv_size + 2 * spec.intermediate_size
    return _FLOAT * (kept + rank * sum(map(len, linear_modules(spec).values())))


def layer_workspace_bytes(spec: ModelSpec) -> int:
    """Per token: the largest temporaries of one layer's backward."""
    return _FLOAT * (2 * spec.hidden_size + 6 * spec.intermediate_size)


def forward_bytes(spec: ModelSpec) -> int:
    """Per token: the largest temporaries of a forward that keeps nothing."""
    attention = 2 * (spec.query_size + 2 * spec.kv_size) + spec.query_size
    return _FLOAT * (3 * spec.hidden_size + max(attention, 3 * spec.intermediate_size))


def scoring_bytes(spec: ModelSpec, rank: int) -> int:
    """Per token: the most of a forward that finds log-probs. A compiled layer has its input and output, what its
    backward would need, what it computes in, and a row rounded for a quantized product."""
    hidden, inner, heads = spec.hidden_size, spec.intermediate_size, spec.query_size + 2 * spec.kv_size
    computed_in = max(heads + hidden, hidden + inner) + inner + _ROUNDED_ROW
    compiled = layer_activation_bytes(spec, rank) + _FLOAT * (hidden + computed_in)
    return max(forward_bytes(spec), compiled)


def rows_bytes(spec: ModelSpec) -> int:
    """Per token: hidden states between the last layer and the head, normed, and their gradients."""
    return 4 * _FLOAT * spec.hidden_size


def entropy_gradient_bytes(spec: ModelSpec) -> int:
    """Per token: the gradient of the entropy that the head keeps until backward."""
    return _FLOAT * spec.hidden_size


def head_chunk_bytes(spec: ModelSpec, chunk_tokens: int) -> int:
    """Logits of one chunk, which become their own gradient in place."""
    return _FLOAT * chunk_tokens * spec.vocab_size


def kv_bytes(spec: ModelSpec, storage: KVStorage) -> int:
    """Per cached token."""
    head = _FLOAT * spec.head_dim if storage == "f32" else spec.head_dim + _FLOAT
    return 2 * spec.num_layers * spec.num_kv_heads * head


def prefix_gradient_bytes(spec: ModelSpec) -> int:
    """Per token of what micro-batches share: gradients of its keys and values, and one layer's of those in fp32."""
    return 2 * _FLOAT * (spec.num_layers + 1) * spec.kv_size


def measuring_bytes(spec: ModelSpec, tokens: int) -> int:
    """The most that measuring dynamic quantization holds beside the framework: every layer's input, and either one
    layer with what its backward needs or the head with some logits."""
    hidden, vocabulary = spec.hidden_size, spec.vocab_size
    layer_sizes = [rows * columns for name, (rows, columns) in matrices(spec).items() if name.startswith("layers.0.")]
    activations = 2 * (layer_activation_bytes(spec, 0) + layer_workspace_bytes(spec)) * tokens
    layer = _FLOAT * sum(layer_sizes) + 2 * max(layer_sizes) + activations
    head = _FLOAT * vocabulary * hidden + 2 * vocabulary * hidden + 5 * _FLOAT * HEAD_ROWS * vocabulary
    return (layer_input_bytes(spec, Recompute(every=1)) + 3 * _FLOAT * hidden) * tokens + max(layer, head)
