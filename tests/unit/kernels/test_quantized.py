"""int8 and NF4 against bitsandbytes' own reference, against arithmetic by hand, and kernels against plain numbers."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace

import pytest
import torch

from groat.kernels import ops
from groat.kernels.codes import dynamic_code, nf4_code
from groat.kernels.int8 import hadamard, rounded, rounded_blocks, to_int8, turned
from groat.kernels.matrix import Matrix, computed_in, dense_of, rows_of, stored, stored_rows, tensors_of
from groat.kernels.native import choose_kernels, has_int8_kernels
from groat.kernels.nf4 import DoubleScales, NF4Matrix, PlainScales, to_nf4
from groat.kernels.ops import product
from groat.kernels.quantized import NotFiniteError
from groat.types import StorageKind

KINDS: list[StorageKind] = ["f32", "bf16", "int8", "nf4"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["auto", "torch"])
def kernels(request: pytest.FixtureRequest):
    choose_kernels(request.param)
    yield request.param
    choose_kernels("auto")


def test_int8_by_hand(kernels: str):
    """A block with one value of 8 is turned into 64 of +-1: all of them at the end of the scale, 1/127 rounded up to
    bf16's next, 130 / 2^14. Zeros have the scale 0, and stay."""
    weight = torch.zeros(2, 100)
    weight[0, 5] = 8
    matrix = to_int8(weight)
    assert matrix.tiles.shape == (1, 2, 16, 32, 4)
    assert set((matrix.tiles[0, 0, :, 0].flatten().int() - 128).abs().tolist()) == {126}
    assert matrix.scales[0, 0, 0].item() == 130 / 2**14
    assert (matrix.tiles[0, 1] == 128).all()
    assert (matrix.tiles[0, 0, :, 1:] == 128).all()
    assert dense_of(matrix)[0, 5].item() == pytest.approx(8 * 126 * 130 / 2**14)
    assert dense_of(matrix)[1].count_nonzero() == 0


def test_turning_keeps_products_and_is_its_own_inverse():
    x, y = random(3, 100), random(3, 100, seed=1)
    assert torch.equal(hadamard() @ hadamard(), torch.eye(64))
    assert torch.equal(hadamard(), hadamard().T)
    products = (turned(x) * turned(y)).sum((1, 2))
    torch.testing.assert_close(products, (x * y).sum(1), rtol=1e-5, atol=1e-5)


def test_nf4_of_its_own_values_is_exact_up_to_the_scale():
    """A block made of the 16 values keeps them; its scale, 3, is the mean of all scales, so the offset holds it."""
    weight = 3 * nf4_code().repeat(4)[None]
    matrix = to_nf4(weight)
    assert matrix.packed.tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] * 4
    assert torch.equal(dense_of(matrix), weight)


def test_the_dynamic_code_has_seven_decades_each_side():
    code = dynamic_code()
    assert len(code) == len(code.unique()) == 256
    assert code[-1] == 1
    assert code[127] == 0
    assert code[128].item() == pytest.approx(0.55e-6, rel=1e-6)
    assert torch.equal(code[:127], -code[128:255].flip(0))


@pytest.mark.parametrize("shape", [(3, 64), (5, 100), (7, 33), (2, 65), (640, 576), (9, 17)])
def test_nf4_bytes_and_scales_are_those_of_bitsandbytes(shape: tuple[int, int]):
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = random(*shape, seed=sum(shape)) * torch.linspace(0.01, 3, shape[0])[:, None]
    ours = to_nf4(weight)
    theirs, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    _, plain = functional.quantize_4bit(weight, blocksize=64, compress_statistics=False, quant_type="nf4")
    assert torch.equal(ours.packed, theirs.flatten())
    assert torch.equal(nf4_code(), state.code)
    assert torch.equal(dynamic_code(), state.state2.code)
    assert isinstance(ours.scales, DoubleScales)
    assert torch.equal(ours.scales.scales, state.state2.absmax)
    assert set(ours.scales.offsets.tolist()) == {state.offset.item()} == {plain.absmax.mean().item()}
    # bitsandbytes' compiled quantizer takes the second nearest value now and then: only there may we differ.
    outer = ours.scales.scales.repeat_interleave(256)[: len(plain.absmax)]
    exact = ((plain.absmax - state.offset) / outer).double()
    code = dynamic_code().double()
    is_other = ours.scales.codes != state.absmax
    errors = [(code[codes.long()] - exact).abs()[is_other] for codes in (ours.scales.codes, state.absmax)]
    assert (errors[0] < errors[1]).all()
    assert is_other.sum() <= 0.002 * len(is_other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 5, 64), (3, 37, 100), (40, 48, 33), (9, 100, 577)])
def test_products_are_those_of_the_dense_matrix(kernels: str, kind: StorageKind, rows: int, outputs: int, inputs: int):
    matrix: Matrix = stored(random(outputs, inputs, seed=1), kind)
    dense = dense_of(matrix).double()
    x, grad, bias = random(rows, inputs), random(rows, outputs, seed=2), random(outputs, seed=3)
    close = {"rtol": 1e-5, "atol": 1e-5 * max(inputs, outputs) ** 0.5}
    expected = torch.nn.functional.linear(x.double(), dense, bias.double())
    torch.testing.assert_close(ops.product(x, matrix, bias).double(), expected, **close)
    torch.testing.assert_close(ops.straight_product(grad, matrix).double(), grad.double() @ dense, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_the_dense_matrix(kernels: str, kind: StorageKind):
    weight = random(40, 33)
    matrix = stored(weight, kind)
    ids = torch.tensor([3, 39, 0, 3])
    assert torch.equal(rows_of(matrix, ids), dense_of(matrix).float()[ids])
    step = {"f32": 0.0, "bf16": 2**-8, "int8": 4 / 127, "nf4": 0.16}[kind]
    assert ((dense_of(matrix) - weight).abs() <= step * 1.02 * weight.abs().max()).all()


def test_bytes_of_each_kind():
    """512 x 640: int8 adds two bytes for 128 weights; NF4 has 5120 blocks with a byte each, 20 scales and offsets."""
    weight = random(512, 640)
    int8, nf4 = to_int8(weight), to_nf4(weight)
    assert sum(tensor.nbytes for tensor in int8.tensors()) == 512 * 640 + 2 * 512 * 5
    assert isinstance(nf4, NF4Matrix)
    assert sum(tensor.nbytes for tensor in nf4.tensors()) == 512 * 640 // 2 + 5120 + 8 * 20


def hard_weights() -> dict[str, torch.Tensor]:
    sizes = torch.logspace(-45, 38, 84)[:, None]
    return {
        "random": random(130, 65),
        "odd width": random(3, 33),
        "smaller than a block": random(1, 5),
        "zeros, in part": random(9, 64) * (torch.arange(9) % 2)[:, None],
        "zeros": torch.zeros(5, 37),
        "subnormals and the largest numbers": (random(84, 100).clamp(-1, 1) * sizes),
        "halves between two steps": torch.arange(-127, 128).repeat(2, 1) / 2,
        "values of the code": nf4_code().repeat(3, 9),
        "bf16": random(70, 48).bfloat16(),
    }


@pytest.mark.parametrize("name", hard_weights())
def test_the_compiled_quantizer_gives_the_bytes_of_torch(name: str):
    weight = hard_weights()[name]
    compiled = to_nf4(weight).tensors()
    choose_kernels("torch")
    expected = to_nf4(weight).tensors()
    choose_kernels("auto")
    for ours, theirs in zip(compiled, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (70, 100), (64, 576)])
def test_int8_of_the_kernel_is_that_of_torch_but_for_a_last_bit_here_and_there(
    shape: tuple[int, int], dtype: torch.dtype
):
    weight = random(*shape).to(dtype)
    compiled = to_int8(weight)
    choose_kernels("torch")
    expected = to_int8(weight)
    choose_kernels("auto")
    apart = (compiled.tiles.int() - expected.tiles.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01
    assert (compiled.scales.float() / expected.scales.float() - 1).nan_to_num().abs().max() <= 2**-7


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan, "all ones"])
def test_infinities_and_nan_are_refused(kernels: str, wrong: float | str):
    weight = random(70, 64)
    if isinstance(wrong, str):
        weight[67].view(torch.int32).fill_(-1)
    else:
        weight[67, 3] = wrong
    for quantize in (to_int8, to_nf4):
        with pytest.raises(NotFiniteError):
            quantize(weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 100), (200, 33), (131, 64)])
def test_a_matrix_stored_a_few_rows_at_a_time_is_the_same(kernels: str, kind: StorageKind, shape: tuple[int, int]):
    weight = random(*shape)
    whole = tensors_of(stored(weight, kind))
    by_range = tensors_of(stored_rows(shape, weight.split(64), kind))
    for one, other in zip(whole, by_range, strict=True):
        assert torch.equal(one, other)


def in_whole_blocks(values: torch.Tensor, kernels: str) -> torch.Tensor:
    """Filled up by zeros; but torch alone leaves out what is not there."""
    return values if kernels == "torch" else torch.nn.functional.pad(values, (0, -values.shape[1] % 64))


INT8_SIZES = [(1, 1, 1), (1, 32, 64), (5, 33, 70), (6, 31, 192), (7, 65, 193), (13, 100, 576), (40, 7, 385)]


@pytest.mark.parametrize(("rows", "outputs", "inputs"), INT8_SIZES)
def test_products_in_int8_are_those_of_rounded_activations(kernels: str, rows: int, outputs: int, inputs: int):
    """Up to a value that lies between two steps, which the kernel and torch may round to either. What rounding leaves
    where an unfinished block has no inputs counts too: so the blocks that are compared with are filled up by zeros."""
    needs_int8(kernels)
    x, weight, bias = random(rows, inputs), random(outputs, inputs, seed=1), random(outputs, seed=3)
    matrix, dense = int8_computed(weight), dense_of(int8_computed(weight)).double()
    filled_x, filled = in_whole_blocks(x, kernels), dense_of(to_int8(in_whole_blocks(weight, kernels))).double()
    expected = torch.nn.functional.linear(rounded(filled_x).double(), filled, bias.double())
    torch.testing.assert_close(ops.product(x, matrix, bias).double(), expected, rtol=1e-5, atol=1e-5 * inputs**0.5)
    plain = torch.nn.functional.linear(x.double(), dense)
    found = ops.product(x, matrix).double()
    assert ((found - plain).norm() / plain.norm()) < 0.02


def test_a_row_in_int8_does_not_depend_on_the_rows_beside_it():
    needs_int8("auto")
    x, matrix = random(200, 300), int8_computed(random(100, 300, seed=1))
    together = ops.product(x, matrix)
    grad = random(200, 100, seed=2)
    grads_together = ops.straight_product(grad, matrix)
    for start, end in ((0, 1), (3, 9), (100, 200)):
        assert torch.equal(ops.product(x[start:end], matrix), together[start:end])
        assert torch.equal(ops.straight_product(grad[start:end], matrix), grads_together[start:end])


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [*INT8_SIZES, (9, 5000, 70), (150, 515, 200)])
def test_gradients_in_int8_are_near_those_of_the_dense_matrix(rows: int, outputs: int, inputs: int):
    """Both sides are rounded to 8 bits along the outputs: less than one part in a hundred in all."""
    needs_int8("auto")
    grad, matrix = random(rows, outputs), int8_computed(random(outputs, inputs, seed=1))
    expected = grad.double() @ dense_of(matrix).double()
    found = ops.straight_product(grad, matrix).double()
    assert (found - expected).norm() / expected.norm() < 0.01


def test_one_large_activation_does_not_drown_the_others():
    """One of 64 is a thousand times the rest: turned, the error stays below 1/127 of a 64th of it for each weight."""
    needs_int8("auto")
    x = random(1, 64)
    x[0, 7] = 1000.0
    matrix = int8_computed(random(32, 64, seed=1))
    error = (ops.product(x, matrix).double() - x.double() @ dense_of(matrix).double().T).abs().max().item()
    assert error < 8 * 1000 / 8 / 127


NF4_SIZES = [(1, 8, 64), (5, 33, 128), (6, 16, 192), (13, 100, 576), (40, 7, 4864)]


@pytest.mark.parametrize(("rows", "outputs", "inputs"), NF4_SIZES)
@pytest.mark.parametrize("scales", ["double", "plain"])
def test_products_of_nf4_in_int8_are_those_of_rounded_codes_and_activations(
    rows: int, outputs: int, inputs: int, scales: str
):
    """The code's values become 127ths; activations are rounded as they are, since the weights are not turned."""
    needs_int8("auto")
    x, matrix, bias = random(rows, inputs), to_nf4(random(outputs, inputs, seed=1)), random(outputs, seed=3)
    block_scales = matrix.scales.of(torch.arange(outputs * inputs // 64))
    if scales == "plain":
        matrix = replace(matrix, scales=PlainScales(block_scales))
    codes = torch.stack([matrix.packed >> 4, matrix.packed & 15], 1).flatten().long()
    weight = ((nf4_code() * 127).round() / 127)[codes].view(-1, 64) * block_scales[:, None]
    rounded_x = rounded_blocks(x.unflatten(1, (-1, 64))).flatten(1)
    expected = torch.nn.functional.linear(rounded_x.double(), weight.view(outputs, inputs).double(), bias.double())
    found = ops.product(x, computed_in(matrix, "int8"), bias)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5 * inputs**0.5)
    plain = torch.nn.functional.linear(x, dense_of(matrix), bias)
    assert ((found - plain).norm() / plain.norm()) < 0.015


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [*NF4_SIZES, (150, 515, 128)])
def test_gradients_of_nf4_in_int8_are_near_those_of_the_dense_matrix(rows: int, outputs: int, inputs: int):
    needs_int8("auto")
    grad, matrix = random(rows, outputs), to_nf4(random(outputs, inputs, seed=1))
    expected = grad.double() @ dense_of(matrix).double()
    found = ops.straight_product(grad, computed_in(matrix, "int8")).double()
    assert (found - expected).norm() / expected.norm() < 0.01


def test_a_row_of_nf4_in_int8_does_not_depend_on_the_rows_beside_it():
    needs_int8("auto")
    x, grad = random(200, 320), random(200, 100, seed=2)
    matrix = computed_in(to_nf4(random(100, 320, seed=1)), "int8")
    together, grads_together = ops.product(x, matrix), ops.straight_product(grad, matrix)
    for start, end in ((0, 1), (3, 9), (100, 200)):
        assert torch.equal(ops.product(x[start:end], matrix), together[start:end])
        assert torch.equal(ops.straight_product(grad[start:end], matrix), grads_together[start:end])


@pytest.mark.parametrize("kind", ["f32", "int8", "nf4"])
@pytest.mark.parametrize(("sizes", "rank"), [((64, 32, 32), 4), ((128, 128), 16), ((40,), 20)], ids=str)
def test_a_row_through_an_adapter_does_not_depend_on_the_rows_beside_it(
    kind: StorageKind, sizes: tuple[int, ...], rank: int
):
    """Rows are added to by sixes and singly, by functions that the compiler may round differently."""
    if kind != "f32":
        needs_int8("auto")
    inputs, parts = 128, len(sizes)
    matrix = stored(random(sum(sizes), inputs, seed=1), kind)
    matrix = matrix if kind == "f32" else computed_in(matrix, "int8")
    a, bs = random(rank * parts, inputs, seed=2), [random(size, rank, seed=3 + part) for part, size in enumerate(sizes)]
    x = random(20, inputs)
    alone = [ops.adapted_product(x[row, None], matrix, None, a, bs, 1.5) for row in range(20)]
    for rows in range(1, 21):
        together = ops.adapted_product(x[:rows], matrix, None, a, bs, 1.5)
        assert torch.equal(together.output_TN, torch.cat([one.output_TN for one in alone[:rows]]))
        assert torch.equal(together.down_TR, torch.cat([one.down_TR for one in alone[:rows]]))


def test_rows_of_nf4_that_are_not_whole_blocks_are_computed_in_f32():
    x, matrix = random(3, 100), to_nf4(random(40, 100, seed=1))
    assert torch.equal(ops.product(x, computed_in(matrix, "int8")), ops.product(x, matrix))


def int8_computed(weight: torch.Tensor) -> Matrix:
    return computed_in(to_int8(weight), "int8")


def needs_int8(kernels: str) -> None:
    if kernels == "auto" and not has_int8_kernels():
        pytest.skip("no products in int8")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_row_with_a_nan_has_no_numbers_in_its_product(kind: StorageKind):
    if not has_int8_kernels():
        pytest.skip("no products in int8")
    weight = computed_in(stored(random(70, 128), kind), "int8")
    x = random(20, 128, seed=1)
    expected = product(x, weight)
    x[3, 77] = torch.nan
    found = product(x, weight)
    assert found[3].isnan().all()
    others = [row for row in range(20) if row != 3]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_has_no_numbers_in_its_product(kind: StorageKind, wrong: float):
    if not has_int8_kernels():
        pytest.skip("no products in int8")
    weight = computed_in(stored(random(300, 128), kind), "int8")
    grad = random(20, 300, seed=1)
    expected = ops.straight_product(grad, weight)
    grad[3, 277] = wrong
    found = ops.straight_product(grad, weight)
    assert not found[3].isfinite().any()
    others = [row for row in range(20) if row != 3]
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("rows", [1, 16, 33, 48])
def test_nf4_reads_nothing_behind_its_last_row(rows: int):
    """The bytes end where a page does, and the next one may not be read."""
    if not has_int8_kernels():
        pytest.skip("no products in int8")
    matrix = to_nf4(random(rows, 256))
    size, page = matrix.packed.numel(), mmap.PAGESIZE
    pages = -(-size // page)
    libc, long = ctypes.CDLL(None), ctypes.c_long
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, long, *[ctypes.c_int] * 3, long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.mmap(None, (pages + 16) * page, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    assert libc.mprotect(start + pages * page, 16 * page, 0) == 0
    at_the_end = (ctypes.c_uint8 * size).from_address(start + pages * page - size)
    packed = torch.frombuffer(at_the_end, dtype=torch.uint8)
    packed.copy_(matrix.packed)
    x = random(4, 256, seed=1)
    moved = computed_in(replace(matrix, packed=packed), "int8")
    assert torch.equal(product(x, moved), product(x, computed_in(matrix, "int8")))
