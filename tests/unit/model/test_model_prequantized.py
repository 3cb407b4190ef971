"""Checkpoints that bitsandbytes has quantized: the numbers are exactly those that bitsandbytes makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_decoder_parity import our_logits, their_logits
from tiny_models import edit_json, tiny_transformers_model, write_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from groat.config.tree import MemoryConfig, ModelConfig, RunConfig
from groat.kernels import ops
from groat.kernels.matrix import Matrix, dense_of, tensors_of
from groat.kernels.native import choose_kernels
from groat.memory.dynamic import Known
from groat.memory.plan import plan_memory
from groat.memory.sizes import matrices, matrix_bytes
from groat.model.load import LoadedModel, load_model
from groat.model.locate import read_spec, storage_of_checkpoint
from groat.model.prequantized import has_double_scales
from groat.types import UserError

functional = pytest.importorskip("bitsandbytes.functional")

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama(hidden: int, inner: int, heads: int, kv_heads: int) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=288,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=128,
        eos_token_id=264,
        bos_token_id=262,
        pad_token_id=262,
    )
    return LlamaForCausalLM(config).bfloat16()


# Sizes of parts: multiples of 64 * 256 (all blocks line up), of 64 alone, and neither.
SHAPES = {"aligned": (128, 256, 4, 4), "blocks alone": (64, 192, 4, 2), "straddling": (24, 40, 4, 2)}


def nf4_tensors(name: str, weight: torch.Tensor, double: bool) -> dict[str, torch.Tensor]:
    """As bitsandbytes' Linear4bit writes itself, and the numbers it stands for."""
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")
    return {name: codes} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}


def write_quantized(
    folder: Path, shape: str = "aligned", kind: str = "double", skipped: tuple[str, ...] = ()
) -> dict[str, torch.Tensor]:
    """A checkpoint as transformers' save_pretrained leaves it; returns the numbers of every tensor, fp32."""
    model = llama(*SHAPES[shape])
    model.save_pretrained(folder)
    write_tokenizer(folder)
    tensors, numbers = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        numbers[name] = weight.float()
        if module.split(".")[-1] not in MODULES or any(module.endswith(skip) for skip in skipped):
            tensors[name] = weight
        elif kind == "int8":
            values, scales, _ = functional.int8_vectorwise_quant(weight.half())
            tensors |= {name: values, f"{module}.SCB": scales, f"{name}_format": torch.tensor(0, dtype=torch.uint8)}
            numbers[name] = functional.int8_vectorwise_dequant(values, scales)
        else:
            tensors |= nf4_tensors(name, weight, double=kind == "double")
            codes, state = functional.quantize_4bit(
                weight, blocksize=64, compress_statistics=kind == "double", quant_type="nf4"
            )
            state.dtype = torch.float32
            numbers[name] = functional.dequantize_4bit(codes, state)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    return numbers


def load(folder: Path) -> LoadedModel:
    """Computed in f32: the numbers themselves are compared."""
    return load_model(ModelConfig(name=str(folder), compute="f32"))


def layer_matrices(model: LoadedModel) -> dict[str, Matrix]:
    names = ("qkv", "output", "gate_up", "down")
    return {
        f"layers.{index}.{name}": getattr(layer, name).weight_NK
        for index, layer in enumerate(model.weights.layers)
        for name in names
    }


def numbers_of(name: str, numbers: dict[str, torch.Tensor]) -> torch.Tensor:
    parts = {
        "qkv": [f"self_attn.{part}_proj" for part in "qkv"],
        "output": ["self_attn.o_proj"],
        "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": ["mlp.down_proj"],
    }
    layer, field = name.rsplit(".", 1)
    return torch.cat([numbers[f"model.{layer}.{part}.weight"] for part in parts[field]])


@pytest.mark.parametrize("kind", ["double", "plain", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_those_of_bitsandbytes(shape: str, kind: str, tmp_path: Path):
    numbers = write_quantized(tmp_path, shape, kind)
    for name, matrix in layer_matrices(load(tmp_path)).items():
        # int8: a product and a quotient are rounded in another order.
        exact = {"rtol": 0, "atol": 0} if kind != "int8" else {"rtol": 2.5e-7, "atol": 0}
        torch.testing.assert_close(dense_of(matrix).float(), numbers_of(name, numbers), **exact)


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("kind", ["double", "plain", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_the_numbers(shape: str, kind: str, kernels: str, tmp_path: Path):
    """Parts have offsets of their own; a kernel that took the first one's for all would be far off."""
    numbers = write_quantized(tmp_path, shape, kind)
    choose_kernels(kernels)  # type: ignore[arg-type]
    for name, matrix in layer_matrices(load(tmp_path)).items():
        dense = numbers_of(name, numbers).double()
        x = torch.randn(5, dense.shape[1], generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(ops.product(x, matrix).double(), x.double() @ dense.T, rtol=1e-5, atol=1e-6)
    choose_kernels("auto")


@pytest.mark.parametrize(("shape", "double"), [("aligned", True), ("blocks alone", False)])
def test_double_quantized_scales_stay_so_where_blocks_line_up(shape: str, double: bool, tmp_path: Path):
    """64 x 64 and 32 x 64 are 64 and 32 blocks: no 256 of them; each then gets its own fp32 scale."""
    write_quantized(tmp_path, shape)
    storage = storage_of_checkpoint(tmp_path)
    assert storage is not None
    assert set(storage.plain_scales) == (
        set() if double else {f"layers.{index}.{name}" for index in (0, 1) for name in ("qkv", "gate_up")}
    )
    assert not has_double_scales([None])


def test_modules_left_in_16_bits_stay_so_and_a_matrix_of_both_is_kept_in_16_bits(tmp_path: Path):
    """As in dynamic 4-bit checkpoints. Beside v_proj in bf16, bitsandbytes too rounds q_proj's numbers to bf16."""
    numbers = write_quantized(tmp_path, skipped=("layers.0.self_attn.v_proj", "layers.1.mlp.down_proj"))
    storage = storage_of_checkpoint(tmp_path)
    assert storage is not None
    assert {name for name, kind in storage.exceptions.items() if kind != "nf4"} == {"layers.0.qkv", "layers.1.down"}
    matrices = layer_matrices(load(tmp_path))
    for name in ("layers.0.qkv", "layers.1.down"):
        matrix = matrices[name]
        assert isinstance(matrix, torch.Tensor)
        assert torch.equal(matrix, numbers_of(name, numbers).bfloat16())
    torch.testing.assert_close(
        dense_of(matrices["layers.0.down"]), numbers_of("layers.0.down", numbers), rtol=0, atol=0
    )


@pytest.mark.parametrize("kind", ["double", "plain", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_plan_counts_the_bytes_that_are_held(shape: str, kind: str, tmp_path: Path):
    write_quantized(tmp_path, shape, kind, skipped=("layers.1.mlp.down_proj",))
    spec, found = read_spec(tmp_path), storage_of_checkpoint(tmp_path)
    assert found is not None
    storage = plan_memory(RunConfig(memory=MemoryConfig(budget="2GiB")), spec, known=Known(found=found)).storage
    held = layer_matrices(load_model(ModelConfig(name=str(tmp_path)), storage))
    for name, matrix in held.items():
        if storage.kind_of(name) != "f32":  # whose tiles round up the rows of so small a matrix
            counted = matrix_bytes(*matrices(spec)[name], storage.kind_of(name), name in storage.plain_scales)
            assert sum(tensor.nbytes for tensor in tensors_of(matrix)) == counted


def test_another_kind_than_the_checkpoints_is_refused(tmp_path: Path):
    write_quantized(tmp_path)
    known = Known(found=storage_of_checkpoint(tmp_path))
    for kind in ("int8", "dynamic"):
        config = RunConfig(memory=MemoryConfig(storage=kind))
        with pytest.raises(UserError, match=f"storage is {kind}, but the checkpoint holds its layers in nf4"):
            plan_memory(config, read_spec(tmp_path), known=known)


def test_what_a_checkpoint_holds_is_found_without_torch(tmp_path: Path):
    write_quantized(tmp_path)
    code = (
        "import sys; from pathlib import Path; from groat.model.locate import storage_of_checkpoint as found\n"
        f"assert found(Path({str(tmp_path)!r})).layers == 'nf4'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unquantized_checkpoint_has_no_storage_of_its_own(tmp_path: Path):
    tiny_transformers_model("llama").save_pretrained(tmp_path)
    assert storage_of_checkpoint(tmp_path) is None


STATE = "model.layers.0.self_attn.k_proj.weight.quant_state.bitsandbytes__nf4"


def text(value: str) -> torch.Tensor:
    return torch.tensor(list(value.encode("utf-8", "surrogatepass")), dtype=torch.uint8)


def state_with(**changes: object) -> torch.Tensor:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [128, 128]}
    return text(json.dumps(state | {"nested_blocksize": 256, "nested_offset": 0.01} | changes))


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (text(""), "no JSON"),
        (text("{" * 60_000), "no JSON"),
        (text("[1]"), "no JSON object"),
        (text('{"quant_type": "nf4"'), "no JSON"),
        (torch.zeros(2**17, dtype=torch.uint8), "has 131072 bytes"),
        (torch.full((9,), 255, dtype=torch.uint8), "no JSON"),
        (state_with(quant_type="fp4"), "quant_type is fp4"),
        (state_with(blocksize=128), "blocksize is 128"),
        (state_with(shape=None), "shape"),
        (state_with(shape=[128, -128]), "shape"),
        (state_with(shape=[2**31, 2**31]), "shape"),
        (state_with(shape=[1e300, 2]), "shape"),
        (state_with(shape=[64, 128]), "k_proj"),
        (state_with(shape=[256, 64]), "[256, 64]"),
        (state_with(nested_blocksize=64), "nested_blocksize is 64"),
        (state_with(nested_offset=float("nan")), "nested_offset"),
        (state_with(nested_offset="0.1"), "nested_offset"),
    ],
)
def test_a_damaged_state_is_one_clear_error(state: torch.Tensor, word: str, tmp_path: Path):
    write_quantized(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {STATE: state}, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def as_fp4(name: str, tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{name}.quant_state.bitsandbytes__fp4"] = tensors.pop(f"{name}.quant_state.bitsandbytes__nf4")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda name, tensors: tensors.pop(f"{name}.absmax"), "no model.layers.1.mlp.up_proj.weight.absmax"),
        (lambda name, tensors: tensors.pop(f"{name}.nested_absmax"), "absmax"),
        (lambda name, tensors: tensors.pop(name), "up_proj"),
        (lambda name, tensors: tensors.update({name: tensors[name][:-1]}), "up_proj.weight is [16383, 1]"),
        (
            lambda name, tensors: tensors.update({name: tensors[name].flatten().view(torch.bfloat16)}),
            "bnb_4bit_quant_storage",
        ),
        (lambda name, tensors: tensors[f"{name}.quant_map"].mul_(1.01), "not those of bitsandbytes"),
        (lambda name, tensors: tensors[f"{name}.nested_quant_map"].mul_(1.01), "not those of bitsandbytes"),
        (lambda name, tensors: tensors.update({f"{name}.more": torch.ones(1)}), "no use for"),
        (as_fp4, "fp4"),
    ],
)
def test_missing_and_wrong_parts_of_a_4_bit_weight_are_named(change, word: str, tmp_path: Path):
    write_quantized(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change("model.layers.1.mlp.up_proj.weight", tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert word in str(refused.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda name, tensors: tensors.update({f"{name}.SCB": tensors[f"{name}.SCB"][:-1].clone()}), "SCB is [127]"),
        (lambda name, tensors: tensors.pop(f"{name}.SCB"), "stored as I8"),
        (lambda name, tensors: tensors[f"{name}.weight_format"].fill_(2), "weight_format"),
        (lambda name, tensors: tensors.pop(f"{name}.weight"), "no matrix of I8"),
    ],
)
def test_missing_and_wrong_parts_of_an_int8_weight_are_named(change, word: str, tmp_path: Path):
    write_quantized(tmp_path, kind="int8")
    tensors = load_file(tmp_path / "model.safetensors")
    change("model.layers.0.self_attn.q_proj", tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError) as refused:
        load(tmp_path)
    assert word in str(refused.value)


def test_a_checkpoint_quantized_and_saved_by_transformers_gives_its_logits(tmp_path: Path):
    """Beside transformers' own dequantized model: its 4-bit products on a CPU are in bf16."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain, quantized = tmp_path / "plain", tmp_path / "quantized"
    llama(*SHAPES["aligned"]).float().save_pretrained(plain)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    theirs = AutoModelForCausalLM.from_pretrained(plain, quantization_config=settings, dtype=torch.float32)
    theirs.save_pretrained(quantized)
    write_tokenizer(quantized)
    ids, ours = list(range(2, 60)), load(quantized)
    difference = (our_logits(ours, ids) - their_logits(theirs.dequantize(dtype=torch.float32), ids)).abs().max()
    assert difference < 1e-4
