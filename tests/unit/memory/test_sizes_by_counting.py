"""What memory/sizes.py predicts, against the tensors of a model that was really loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from groat.config.tree import LoraConfig, ModelConfig, TrainingConfig
from groat.kernels.matrix import dense_of
from groat.learning.trained_weights import TrainedWeights
from groat.memory.measure import peak_bytes, resident_bytes
from groat.memory.sizes import (
    adapter_bytes,
    head_chunk_bytes,
    kv_bytes,
    layer_input_bytes,
    optimizer_bytes,
    value_model_bytes,
    weight_bytes,
)
from groat.model.load import LoadedModel, load_model
from groat.model.lora import new_adapter
from groat.model.recompute import Recompute
from groat.model.value_model import new_value_model
from groat.sampling.native.cache import SuffixArena
from groat.testing import tiny_model
from groat.types import KVStorage


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_model(tmp_path_factory.mktemp("model") / "tiny", request.param)
    return load_model(ModelConfig(name=str(folder)))


def test_the_weights_are_those_that_were_loaded_without_norms_biases_and_filled_up_tiles(model: LoadedModel) -> None:
    weights = model.weights
    linears = [linear for layer in weights.layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]
    matrices = [weights.embedding_VH, weights.head_VH, *(linear.weight_NK for linear in linears)]
    assert weight_bytes(model.spec) == sum(dense_of(matrix).nbytes for matrix in matrices)
    filled_up = sum(31 * 4 * matrix.shape[1] for matrix in matrices)
    whole = sum(tensor.nbytes for tensor in weights.tensors())
    assert weight_bytes(model.spec) <= whole < 1.02 * weight_bytes(model.spec) + filled_up


def test_the_weights_of_a_tiny_llama_by_hand(tmp_path: Path) -> None:
    spec = load_model(ModelConfig(name=str(tiny_model(tmp_path / "tiny")))).spec
    # Per layer: q and o 32 x 32, k and v 32 x 16, three of 32 x 64. Embedding and head 259 x 32.
    per_layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert weight_bytes(spec) == 4 * (2 * per_layer + 2 * 259 * 32)
    assert weight_bytes(replace(spec, tied_head=True)) == 4 * (2 * per_layer + 259 * 32)
    # Keys and values: 2 layers x 2 heads x 8.
    assert kv_bytes(spec, "f32") == 4 * 2 * 2 * 16
    # In int8 a byte each, and 4 for the scale of each head.
    assert kv_bytes(spec, "int8") == 2 * 2 * (16 + 2 * 4)
    assert layer_input_bytes(spec, Recompute(every=1)) == 4 * 2 * 32
    assert layer_input_bytes(spec, Recompute(every=2)) == 4 * 32
    assert layer_input_bytes(spec, Recompute(every=1, saved_inputs="bf16")) == 2 * 2 * 32
    assert head_chunk_bytes(spec, 100) == 4 * 100 * 259


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_the_adapter_is_exactly_the_tensors_of_a_new_one(model: LoadedModel, rank: int) -> None:
    adapter = new_adapter(model.spec, LoraConfig(r=rank), torch.Generator())
    assert adapter_bytes(model.spec, rank) == sum(tensor.nbytes for tensor in adapter.named_tensors().values())


@pytest.mark.parametrize("rank", [1, 8])
def test_a_value_model_and_its_moments_are_exactly_the_tensors_of_a_new_one(model: LoadedModel, rank: int) -> None:
    value_model = new_value_model(model.spec, LoraConfig(r=rank), torch.Generator())
    weights = TrainedWeights(value_model.named_tensors(), TrainingConfig(), "value")
    weights.make_room()
    state = weights.state()
    moments = [tensor for name, tensor in state.items() if name.startswith("optimizer.") and not name.endswith("step")]
    trained = value_model_bytes(model.spec, rank)
    assert trained == sum(tensor.nbytes for name, tensor in state.items() if name.startswith("value."))
    assert optimizer_bytes(trained, "adamw_torch_fused") == sum(tensor.nbytes for tensor in moments)
    assert value_model_bytes(model.spec, 0) == 0


@pytest.mark.parametrize("storage", ["f32", "int8"])
def test_keys_and_values_of_a_cached_token_are_those_of_the_samplers_arena(
    model: LoadedModel, storage: KVStorage
) -> None:
    arena = SuffixArena(model.spec, 8, storage, torch.float32)
    arena.reserve(8)
    arena.rearrange([None] * 3)
    tensors = [tensor for kv in arena.layers for tensor in kv.tensors]
    tokens = tensors[0].shape[0] * tensors[0].shape[2]
    assert sum(tensor.nbytes for tensor in tensors) == kv_bytes(model.spec, storage) * tokens


def test_what_is_measured_is_a_process_with_torch_in_it() -> None:
    assert 50 * 2**20 < resident_bytes() <= peak_bytes() < 2**40
