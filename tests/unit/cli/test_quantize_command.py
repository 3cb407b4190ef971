"""`groat quantize` measures, chooses, tells and keeps; plans and runs take it up."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from dynamic_models import empty_cache, sharp_tiny_model
from tiny_runs import Ended, groat, record_of, write_recipe

from groat.cli.main import main
from groat.memory.sizes import matrices, weight_bytes
from groat.model.locate import read_spec
from groat.model.storage import Storage


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache(tmp_path / "cache")))
    return str(sharp_tiny_model(tmp_path / "tiny")[0])


def quantized(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["quantize", *args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(list(args)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_the_page_shows_bits_sizes_and_what_they_cost(capsys, model):
    assert main(["quantize", model]) == 0
    page = capsys.readouterr().out
    for word in ("qkv", "output", "gate_up", "down", "embedding", "head", "dynamic", "nf4", "int8", "KL", "kept in"):
        assert word in page
    figures = quantized(capsys, model)
    assert figures["kl"]["int8"] < figures["kl"]["dynamic"] < figures["kl"]["nf4"]
    assert figures["bytes"]["dynamic"] <= 1.1 * figures["bytes"]["nf4"]


def test_a_second_time_nothing_is_measured_unless_asked_for(capsys, model):
    main(["quantize", model, "--no-check"])
    assert "Measuring" in capsys.readouterr().out
    main(["quantize", model, "--no-check"])
    assert "Measured before" in capsys.readouterr().out
    main(["quantize", model, "--no-check", "--again"])
    assert "Measured before" not in capsys.readouterr().out


def test_another_calibration_text_is_measured_on(capsys, model, tmp_path):
    main(["quantize", model, "--no-check"])
    text = tmp_path / "text.txt"
    text.write_text("One two three, four five six. " * 50)
    capsys.readouterr()
    main(["quantize", model, "--no-check", "--calibration", str(text)])
    assert "Measured before" not in capsys.readouterr().out
    text.write_text("Too short.")
    assert "at least 64 are needed" in refused(capsys, "quantize", model, "--calibration", str(text))


def test_a_budget_below_all_in_4_bits_is_refused_with_the_smallest_and_that_one_works(capsys, model):
    words = refused(capsys, "quantize", model, "--budget", "10KB")
    smallest = re.search(r"all in 4 bits they take ([0-9.]+ MiB)", words)
    assert smallest
    figures = quantized(capsys, model, "--budget", smallest[1], "--no-check")
    assert figures["bytes"]["dynamic"] <= float(smallest[1].split()[0]) * 2**20
    assert "no unit" in refused(capsys, "quantize", model, "--budget", "10")


def test_a_budget_above_bf16_stores_all_in_bf16(capsys, model):
    figures = quantized(capsys, model, "--budget", "1GiB", "--no-check")
    assert set(figures["kinds"].values()) == {"bf16"}


def test_a_plan_takes_up_the_kinds_from_the_cache_and_from_a_file(capsys, model, tmp_path):
    out = tmp_path / "chosen.json"
    chosen = quantized(capsys, model, "--budget", "22KiB", "--out", str(out), "--no-check")["kinds"]
    spec = read_spec(Path(model))
    counts = [f"{list(chosen.values()).count(kind)} matrices in {kind}" for kind in set(chosen.values()) - {"nf4"}]
    for flags in (["--memory.storage", "dynamic"], ["--memory.storage", "dynamic", "--memory.sensitivities", str(out)]):
        assert main(["plan", "--model", model, *flags, "--json"]) == 0
        planned = json.loads(capsys.readouterr().out)["choices"]["storage"]
        assert all(count in planned for count in counts)
    assert set(chosen) == set(matrices(spec))
    assert weight_bytes(spec, Storage(layers="nf4", embedding="nf4", exceptions=chosen)) <= 22 * 1024


def test_a_file_of_another_model_is_refused(capsys, model, tmp_path):
    out = tmp_path / "chosen.json"
    quantized(capsys, model, "--out", str(out), "--no-check")
    other = str(sharp_tiny_model(tmp_path / "other", tied=True)[0])
    flags = ["--memory.storage", "dynamic", "--memory.sensitivities", str(out)]
    assert "measured on another model" in refused(capsys, "plan", "--model", other, *flags)


def test_before_a_measurement_the_plan_says_that_one_comes_first(capsys, model):
    assert main(["plan", "--model", model, "--memory.storage", "dynamic"]) == 0
    page = capsys.readouterr().out
    assert "after a measurement of about 1 min" in page
    assert "MEASURE" in page


class Runs:
    """Commands in processes of their own, with a cache that can be emptied."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache = empty_cache(tmp_path / "cache")
        self.folder = tmp_path / "runs"
        self.folder.mkdir(parents=True)
        write_recipe(self.folder, memory={"storage": "dynamic"})

    def groat(self, *args: str, **more: Any) -> Ended:
        return groat(self.folder, *args, environment={"XDG_CACHE_HOME": str(self.cache)}, **more)

    def forget(self) -> None:
        shutil.rmtree(self.cache / "groat" / "sensitivities")


def test_a_run_measures_first_and_goes_on_with_the_same_bytes_whatever_became_of_the_cache(tmp_path: Path) -> None:
    whole, stopped = Runs(tmp_path / "whole"), Runs(tmp_path / "stopped")
    ended = whole.groat("train", "recipe.yaml")
    assert ended.exit_code == 0, ended.output
    assert "measuring once which matrices" in ended.output
    assert "weights in dynamic" in ended.output
    assert stopped.groat("train", "recipe.yaml", signals={("sample", 3): (signal.SIGTERM,)}).exit_code == 0
    stopped.forget()
    resumed = stopped.groat("resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert "measuring" not in resumed.output
    assert record_of(stopped.folder / "run") == record_of(whole.folder / "run")
    plans = [json.loads((runs.folder / "run" / "plan.json").read_text())["storage"] for runs in (whole, stopped)]
    assert plans[0] == plans[1]
    assert plans[0]["calibrated"]


def test_a_run_whose_sensitivities_are_gone_or_damaged_does_not_go_on_with_other_weights(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.groat("train", "recipe.yaml", signals={("sample", 2): (signal.SIGTERM,)}).exit_code == 0
    kept = runs.folder / "run" / "sensitivities.json"
    text = kept.read_text()
    kept.write_text(text[:500])
    assert "not valid JSON" in " ".join(runs.groat("resume", "run").output.split())
    kept.unlink()
    refused = runs.groat("resume", "run")
    assert refused.exit_code == 2
    assert "sensitivities.json" in refused.output
    kept.write_text(text)
    assert runs.groat("resume", "run").exit_code == 0


def test_ctrl_c_while_measuring_ends_at_once_and_the_run_can_still_be_begun(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.groat("train", "recipe.yaml", signals={("measure", 1): (signal.SIGINT,)}).exit_code == 130
    assert runs.groat("resume", "run").exit_code == 0
