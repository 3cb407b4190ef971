"""Bytes and operations of the work, and the time they take at full rate, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from known_specs import SMOLLM2_135M
from tiny_decoders import sample_of, tiny_spec

from benchmarks.groat_side import learning_of
from benchmarks.rates import Rates, best_of
from benchmarks.roofline import (
    DecodeStep,
    Learning,
    Part,
    Policy,
    decode_parts,
    learning_parts,
    least_seconds,
    roofline,
)
from benchmarks.shares import shares
from benchmarks.work import W1
from groat.model.storage import Storage

SPEC = tiny_spec(
    hidden_size=4,
    intermediate_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=10,
    tied_head=True,
    qkv_bias=False,
    qk_norm=False,
)
POLICY = Policy(spec=SPEC, storage=Storage(), compute="f32", kv_cache="f32", rank=1)
# A layer has qkv [8, 4], output [4, 4], gate and up [16, 4] and down [4, 8]: 32 + 16 + 64 + 32 = 144 weights.
LAYERS = 2 * 144
HEAD = 10 * 4
# Rank 1 has num_in + num_out numbers for q, k, v, output, gate, up and down: 8 + 6 + 6 + 8 + 12 + 12 + 12 = 64.
ADAPTER = 2 * 64
RATES = Rates(reading=((10**9, 1000.0),), products={"f32": 500.0, "int8": 2000.0})


def by_name(parts: tuple[Part, ...]) -> dict[str, tuple[float, float]]:
    return {part.name: (part.num_bytes, part.num_operations) for part in parts}


def test_a_decode_step_reads_weights_once_and_shared_prompts_once():
    step = DecodeStep(num_sequences=3, own_tokens=5, prompt_tokens=21, unique_prompt_tokens=7)
    assert by_name(decode_parts(POLICY, step)) == {
        "layers": (4 * LAYERS, 2 * 3 * LAYERS),
        "adapter": (4 * ADAPTER, 2 * 3 * ADAPTER),
        # Keys and values are 2 x 4 bytes x 2 layers x 2 numbers a token: 32. A query of 4 numbers meets a key and adds
        # up a value: 4 operations for each number, in 2 layers: 32 a pair.
        "attention": (32 * (3 * 5 + 7), 32 * (3 * 5 + 21)),
        "head": (4 * HEAD, 2 * 3 * HEAD),
    }


def test_learning_is_forward_and_gradients_of_inputs_and_adapter():
    work = Learning(tokens=20, attended=110, targets=12)
    assert by_name(learning_parts(POLICY, work)) == {
        # The frozen weights are multiplied with inputs and with gradients, 2 operations each.
        "layers": (2 * 4 * LAYERS, 4 * 20 * LAYERS),
        # The adapter's once more each: its own gradients.
        "adapter": (2 * 4 * ADAPTER, 6 * 20 * ADAPTER),
        # Scores and mixtures forward; backward the gradients of values, probabilities, queries and keys.
        "attention": (2 * 32 * 20, 12 * 2 * 4 * 110),
        "head": (4 * HEAD, 4 * 12 * HEAD),
    }


def test_quantized_weights_are_fewer_bytes_and_as_many_operations():
    step = DecodeStep(num_sequences=1, own_tokens=0, prompt_tokens=0, unique_prompt_tokens=0)
    parts = by_name(decode_parts(replace(POLICY, storage=Storage.of("int8"), compute="int8"), step))
    # Each matrix fits in one tile of 32 x 64 bytes with 32 scales of 2 bytes; there are 4 a layer.
    assert parts["layers"] == (2 * 4 * 32 * 66, 2 * LAYERS)
    assert parts["head"] == (32 * 66, 2 * HEAD)
    assert parts["adapter"] == (4 * ADAPTER, 2 * ADAPTER)


def test_the_roofline_is_the_longer_of_all_reading_and_all_computing():
    reads = Part(name="reads", num_bytes=3000, num_operations=500, compute="f32")
    computes = Part(name="computes", num_bytes=500, num_operations=6000, compute="int8")
    found = roofline([reads, computes], RATES)
    assert found.byte_seconds == pytest.approx(3.5)
    assert found.operation_seconds == pytest.approx(500 / 500 + 6000 / 2000)
    assert found.seconds == pytest.approx(4.0)
    assert least_seconds([reads, computes], RATES) == {"reads": pytest.approx(3.0), "computes": pytest.approx(3.0)}


def test_a_part_is_read_as_slowly_as_all_that_is_read_between_its_turns():
    small, large = (Part(name=f"{size}", num_bytes=size, num_operations=0, compute="f32") for size in (50, 150))
    rates = Rates(reading=((100, 10.0), (200, 5.0)), products={"f32": 1.0})
    assert least_seconds([small], rates) == {"50": 5.0}
    assert least_seconds([small, large], rates) == {"50": 10.0, "150": 30.0}


def test_an_untied_head_is_read_and_the_embedding_is_not():
    step = DecodeStep(num_sequences=1, own_tokens=0, prompt_tokens=0, unique_prompt_tokens=0)
    untied = replace(POLICY, spec=replace(SPEC, tied_head=False))
    assert by_name(decode_parts(untied, step)) == by_name(decode_parts(POLICY, step))


def test_reading_is_as_fast_as_on_the_next_larger_buffer():
    rates = Rates(reading=((100, 9.0), (200, 7.0), (1000, 5.0)), products={"f32": 1.0})
    assert [rates.bytes_per_second(size) for size in (1, 100, 101, 200, 900, 5000)] == [9.0, 9.0, 7.0, 7.0, 5.0, 5.0]


def test_the_best_of_rates_takes_each_at_its_best():
    first = Rates(reading=((100, 9.0), (200, 3.0)), products={"f32": 1.0})
    second = Rates(reading=((100, 8.0), (200, 4.0)), products={"f32": 2.0})
    assert best_of([first, second]) == Rates(reading=((100, 9.0), (200, 4.0)), products={"f32": 2.0})
    assert Rates.from_json(first.to_json()) == first


def test_what_is_learned_counts_shared_tokens_once():
    prompt = (1, 2, 3, 4, 5)
    first, second = sample_of(prompt, (6, 7, 8)), sample_of(prompt, (9, 9, 9, 9))
    # The last token of each predicts nothing: 5 + 2 + 3 tokens. They attend to 1 + ... + 5, 6 + 7, and 6 + 7 + 8.
    assert learning_of([first, second]) == Learning(tokens=10, attended=15 + 13 + 21, targets=7)


def test_w1_of_smollm2_comes_to_what_the_journal_says():
    """About 2.6 TFLOP of learning in a step (journal, 2026-11-22)."""
    learned = {"tokens": 4 * 55 + 32 * 127, "attended": 32 * (127 * 55 + 127 * 64), "targets": 4096}
    figures = {
        **{"storage": "f32", "compute": "f32", "kv_cache": "f32", "rank": 16},
        **{"prompt_tokens": [55] * 4, "unique_prompt_tokens": 220},
        **{"decode_step_seconds": 0.1, "learn_seconds": 20.0, "learned": learned},
    }
    rates = Rates(reading=((10**9, 2e10),), products={"f32": 2e11})
    found = shares(figures, W1, SMOLLM2_135M, rates)
    assert found["learn_operations"] == pytest.approx(2.6e12, rel=0.05)
    assert found["learn_operations_per_second"] == pytest.approx(found["learn_operations"] / 20)
    assert found["learn_share_of_product_rate"] == pytest.approx(found["learn_operations"] / 20 / 2e11)
    # 106.2 million weights of layers and 28.3 of the head, 4.9 of the adapter, in fp32; keys and values of 46080 bytes
    # for 32 x 64.5 own tokens and 220 of prompts.
    num_bytes = 4 * (106.17e6 + 28.31e6 + 4.88e6) + 46080 * (32 * 64.5 + 220)
    assert found["decode_bytes"] == pytest.approx(num_bytes, rel=1e-3)
    assert found["decode_byte_seconds"] == pytest.approx(found["decode_bytes"] / 2e10)
    longer = max(found["decode_byte_seconds"], found["decode_operation_seconds"])
    assert found["decode_share"] == pytest.approx(longer / 0.1)
