"""The damage predicted for each matrix, against what really happens when that matrix alone is stored in fewer bits."""

from pathlib import Path

import pytest
import torch
from dynamic_models import measured, sharp_tiny_model

from groat.config.tree import ModelConfig
from groat.kernels.matrix import stored_rows
from groat.kernels.ops import product
from groat.memory.dynamic import DynamicKinds, dynamic_storage
from groat.memory.sensitivities import Sensitivities, read_sensitivities
from groat.memory.sizes import matrices, weight_bytes
from groat.model.attention import tree_attention
from groat.model.checkpoint import Store, in_fp32
from groat.model.decoder import Decoder
from groat.model.load import load_model
from groat.model.spec import ModelSpec
from groat.model.storage import Storage
from groat.model.tokenizer import Tokenizer
from groat.quantization.compare import held_out_text, kl_to_unquantized
from groat.quantization.measure import calibration_text, keep
from groat.quantization.store import dynamic_store
from groat.trees import Node
from groat.types import StorageKind, UserError

Measured = tuple[Path, ModelSpec, Sensitivities]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder, spec = sharp_tiny_model(tmp_path_factory.mktemp("model") / "tiny", tied=request.param)
    return folder, spec, measured(folder, spec)


def sequences(folder: Path, text: str) -> list[list[int]]:
    ids = Tokenizer.from_folder(folder).encode(text)
    return [ids[start : start + 256] for start in range(0, 2048, 256)]


def only(name: str, kind: StorageKind) -> Store:
    return lambda found, shape, ranges: (
        stored_rows(shape, ranges, kind) if found == name else in_fp32(found, shape, ranges)
    )


def test_predicted_damages_are_those_that_happen_but_for_what_attention_adds_up(model: Measured) -> None:
    """int8, one matrix at a time. Behind the last attention tokens do not mix, and the prediction is exact but for the
    noise of one draw per token. Before it, errors of many tokens add up in one place, which is left out."""
    folder, spec, sensitivities = model
    stores = {name: only(name, "int8") for name in matrices(spec)}
    happened = kl_to_unquantized(folder, spec, sequences(folder, calibration_text(None)), stores)
    predicted = {name: matrix.damages["int8"] for name, matrix in sensitivities.matrices.items()}
    for name in ("layers.1.output", "layers.1.gate_up", "layers.1.down", "head"):
        if name in predicted:
            assert predicted[name] == pytest.approx(happened[name], rel=0.25), name
    assert all(predicted[name] < 1.25 * happened[name] for name in predicted)
    assert 0.5 * sum(happened.values()) < sum(predicted.values()) < sum(happened.values())


def test_nf4_damages_more_than_int8_and_every_matrix_is_measured(model: Measured) -> None:
    _, spec, sensitivities = model
    assert set(sensitivities.matrices) == set(matrices(spec))
    for matrix in sensitivities.matrices.values():
        assert matrix.damages["nf4"] > 5 * matrix.damages["int8"] > 0


def test_dynamic_storage_is_closer_to_the_model_than_nf4_of_the_same_size(model: Measured) -> None:
    folder, spec, sensitivities = model
    plain = Storage.of("nf4")
    dynamic = DynamicKinds(spec=spec, sensitivities=sensitivities).storage(weight_bytes(spec, plain))
    assert dynamic is not None
    assert weight_bytes(spec, dynamic) <= weight_bytes(spec, plain)
    kls = kl_to_unquantized(
        folder,
        spec,
        sequences(folder, held_out_text()),
        {
            "dynamic": dynamic_store(dynamic, sensitivities),
            "plain": lambda name, shape, ranges: stored_rows(shape, ranges, plain.kind_of(name)),
        },
    )
    assert kls["dynamic"] < 0.8 * kls["plain"]


def test_streamed_and_loaded_models_have_the_same_kl(model: Measured) -> None:
    folder, spec, _ = model
    text = sequences(folder, held_out_text())[:2]
    plain = Storage.of("nf4")
    streamed = kl_to_unquantized(
        folder, spec, text, {"nf4": lambda name, shape, ranges: stored_rows(shape, ranges, plain.kind_of(name))}
    )
    total = 0.0
    for sequence in text:
        exact, rounded = (_logprobs(folder, kinds, sequence) for kinds in (Storage(), plain))
        total += (exact.exp() * (exact - rounded)).sum().item()
    assert streamed["nf4"] == pytest.approx(total / sum(map(len, text)), rel=1e-3)


@torch.no_grad()
def _logprobs(folder: Path, storage: Storage, sequence: list[int]) -> torch.Tensor:
    loaded = load_model(ModelConfig(name=str(folder), compute="f32"), storage)
    decoder = Decoder(loaded.spec, loaded.weights)
    nodes = [Node(0, len(sequence), len(sequence), is_root=True)]
    hidden_TH = decoder.hidden(
        torch.tensor(sequence), torch.arange(len(sequence)), lambda _, q, k, v: tree_attention(q, k, v, nodes), None
    )
    return product(decoder.final_norm(hidden_TH), loaded.weights.head_VH).log_softmax(-1)


def test_the_unquantized_model_is_at_no_distance_from_itself(model: Measured) -> None:
    folder, spec, _ = model
    text = sequences(folder, held_out_text())[:1]
    assert kl_to_unquantized(folder, spec, text, {"f32": in_fp32})["f32"] == pytest.approx(0, abs=1e-9)


def test_a_kept_file_makes_the_same_bytes_again(model: Measured, tmp_path: Path) -> None:
    folder, spec, sensitivities = model
    path = tmp_path / "deep" / "sensitivities.json"
    keep(sensitivities, path)
    read = read_sensitivities(path, spec, sensitivities.fingerprint)
    assert read == sensitivities
    storage = dynamic_storage({"layers.1.down": "int8"})

    def packed(known: Sensitivities) -> list[torch.Tensor]:
        store = dynamic_store(storage, known)
        return list(load_model(ModelConfig(name=str(folder)), storage, store=store).weights.tensors())

    for first, second in zip(packed(sensitivities), packed(read), strict=True):
        assert torch.equal(first, second)


def test_measuring_twice_finds_the_same(model: Measured) -> None:
    folder, spec, sensitivities = model
    assert measured(folder, spec) == sensitivities


def test_a_calibration_text_that_is_too_short_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.txt"):
        calibration_text(tmp_path / "nowhere.txt")
