"""`groat bench memory` runs whole steps on random weights of a shape, and says what was planned and what was held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groat.cli import bench_memory
from groat.cli.main import main
from groat.cli.memory_cases import CASES, SHAPES, MemoryCase
from groat.model.families import spec_from_hf_config

TINY = {**SHAPES["smollm2-135m"], "hidden_size": 72, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300}


def test_shapes_are_read_as_models_of_their_published_sizes():
    """Billions of weights, norms left out."""
    from groat.memory.sizes import weight_bytes

    billions = {name: weight_bytes(spec_from_hf_config(dict(shape))) / 4e9 for name, shape in SHAPES.items()}
    assert billions["smollm2-135m"] == pytest.approx(0.1345, abs=1e-3)
    assert billions["qwen2.5-1.5b"] == pytest.approx(1.54, abs=0.01)
    assert billions["llama-3.2-3b"] == pytest.approx(3.21, abs=0.01)
    assert billions["llama-3.1-8b"] == pytest.approx(8.03, abs=0.01)
    assert billions["phi-4"] == pytest.approx(14.66, abs=0.01)


def test_every_case_has_a_shape_and_prompts_of_its_length():
    for name, case in CASES.items():
        prompts = list(case.prompts())
        assert name == case.name
        assert case.shape in SHAPES
        assert len(prompts) == len(set(prompts)) == case.num_prompts * case.steps
        assert max(map(len, prompts)) == case.prompt_tokens
    growing = [len(prompt) for prompt in CASES["135m-growing"].prompts()]
    assert growing == sorted(growing)
    assert growing[0] == 8


def test_a_case_that_is_not_there_is_named(capsys):
    assert main(["bench", "memory", "--case", "9b"]) == 2
    assert "there is no case '9b'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_case_ends_with_its_figures_and_keeps_its_weights_for_the_next(capsys, monkeypatch, tmp_path: Path):
    monkeypatch.setitem(bench_memory.SHAPES, "tiny", TINY)
    case = MemoryCase(
        name="tiny", shape="tiny", budget="600MiB", num_generations=3, prompt_tokens=20, completion_tokens=9
    )
    monkeypatch.setitem(bench_memory.CASES, "tiny", case)
    assert main(["bench", "memory", "--case", "tiny", "--json", "--folder", str(tmp_path)]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["case"] == "tiny"
    assert figures["budget_gib"] == pytest.approx(600 / 1024, abs=1e-3)
    assert 0.2 < figures["predicted_gib"] < 0.586
    assert 0.2 < figures["measured_gib"] < 0.586
    assert (tmp_path / "tiny" / "model.safetensors.index.json").exists()
