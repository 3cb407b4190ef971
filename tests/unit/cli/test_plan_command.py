"""`groat plan` says what a run would hold, without torch and without training."""

import json
import subprocess
import sys

import pytest

from groat.cli.main import main
from groat.testing import tiny_model


def planned(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["plan", *args]) == 0
    return capsys.readouterr().out


@pytest.fixture
def model(tmp_path) -> str:
    return str(tiny_model(tmp_path / "tiny"))


def test_the_figures_for_scripts_add_up(capsys, model):
    figures = json.loads(planned(capsys, "--model", model, "--budget", "2GiB", "--json"))
    assert figures["budget_gib"] == 2
    sums = {phase: sum(parts.values()) for phase, parts in figures["phases"].items()}
    assert set(sums) == {"LOAD", "SAMPLE", "SCORE", "LEARN"}
    assert figures["peak_gib"] == pytest.approx(max(sums.values()), abs=1e-3)
    assert figures["smallest_budget_gib"] < 2
    assert figures["peak_gib"] < 2
    assert figures["choices"]["storage"].startswith("f32")


def test_the_smallest_budget_is_the_one_a_refusal_tells(capsys, model):
    smallest = json.loads(planned(capsys, "--model", model, "--json"))["smallest_budget_gib"]
    assert main(["plan", "--model", model, "--budget", f"{smallest - 0.01:.3f}GiB"]) == 2
    assert "cannot be kept" in capsys.readouterr().err
    assert json.loads(planned(capsys, "--model", model, "--budget", f"{smallest + 0.001:.3f}GiB", "--json"))


def test_without_a_budget_the_page_says_so(capsys, model):
    page = planned(capsys, "--model", model)
    assert "no budget asked for" in page
    assert "together" in page


def test_asked_for_storage_is_planned(capsys, model):
    figures = json.loads(planned(capsys, "--model", model, "--memory.storage", "nf4", "--json"))
    assert figures["choices"]["storage"].startswith("nf4")


def test_planning_does_not_load_torch(model):
    code = f"import sys; from groat.cli.main import main; main(['plan', '--model', {model!r}])"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
