"""The file of results: its schema, its medians of ratios, and what it holds when a benchmark is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from known_specs import SMOLLM2_135M

from benchmarks import long_context, rollouts, scaling, steps
from benchmarks.comparison import check_same_prompts
from benchmarks.job import GroatSettings, Job
from benchmarks.machine import REPOSITORY
from benchmarks.rates import Rates
from benchmarks.report import report
from benchmarks.results import Results
from benchmarks.work import W1
from groat.types import UserError

JOB = Job(work=W1, groat=GroatSettings(model="demo"), num_measured=2, num_warm_up=1, longest_tokens=192)
RATES = Rates(reading=((10**9, 2e10),), products={"f32": 2e11})


def groat_figures(speed: float, peak_gib: float) -> dict[str, Any]:
    return {
        **{"storage": "f32", "compute": "f32", "kv_cache": "f32", "rank": 16},
        **{"prompt_tokens": [50] * 4, "unique_prompt_tokens": 200},
        **{"decode_step_seconds": 32 / speed, "rollout_tokens_per_second": speed, "peak_gib": peak_gib},
    }


def peer_figures(speed: float, peak_gib: float) -> dict[str, Any]:
    figures = {"prompt_tokens": [50] * 4, "rollout_tokens_per_second": speed, "peak_gib": peak_gib}
    return figures | {"versions": {"transformers": "5.0"}}


def test_ratios_are_taken_within_a_repetition_and_the_file_is_there_after_each(tmp_path: Path):
    results = Results(tmp_path / "new" / "w1.json", "rollouts", {"model": "demo"}, {"w1": JOB}, SMOLLM2_135M)
    speeds = [(300.0, 100.0), (450.0, 90.0), (400.0, 200.0)]  # 3, 5 and 2 times as fast: the median is 3
    for number, (groat, peer) in enumerate(speeds, start=1):
        sides = {"groat": groat_figures(groat, 1.0), "transformers": peer_figures(peer, 2.0)}
        results.add("w1", RATES, sides)
        data = json.loads((tmp_path / "new" / "w1.json").read_text())
        assert not data["is_finished"]
        assert len(data["cases"][0]["repetitions"]) == number
    results.finish()
    data = json.loads((tmp_path / "new" / "w1.json").read_text())
    assert data["is_finished"]
    summary = data["cases"][0]["summary"]
    assert summary["groat_against"]["transformers"]["speed"] == {"median": 3.0, "low": 2.0, "high": 5.0, "count": 3}
    assert summary["groat_against"]["transformers"]["memory"]["median"] == 0.5
    assert summary["sides"]["groat"]["rollout_tokens_per_second"]["median"] == 400.0
    assert data["versions"]["transformers"] == {"transformers": "5.0"}
    assert {"groat", "commit", "has_changes", "python", "torch"} <= data["versions"]["groat"].keys()
    assert {"cpu", "cores", "flags", "memory_gib", "last_level_cache_mib"} <= data["machine"].keys()
    lines = list(report(data))
    assert lines[0] == "w1: 32 completions of 128 tokens, 4 prompts of 50; medians of 3 (lowest to highest)"
    assert lines[3].strip() == "groat is 3.00 (2.00 to 5.00) times as fast, takes 0.50 of its peak memory"


def test_what_groat_reached_is_told_of_the_best_rates_of_the_run(tmp_path: Path):
    """A repetition whose rates were measured beside other work must not make groat look better."""
    results = Results(tmp_path / "w1.json", "rollouts", {}, {"w1": JOB}, SMOLLM2_135M)
    results.add("w1", RATES, {"groat": groat_figures(300.0, 1.0)})
    before = results.data["cases"][0]["summary"]["shares"]["decode_share"]["median"]
    slowed = Rates(reading=((10**9, 1e10),), products={"f32": 1e11})
    results.add("w1", slowed, {"groat": groat_figures(300.0, 1.0)})
    assert results.data["cases"][0]["summary"]["shares"]["decode_share"]["median"] == before


def test_sides_that_read_other_prompts_are_refused():
    same = {"groat": {"prompt_tokens": [4, 5]}, "vLLM": {"prompt_tokens": [4, 5]}}
    check_same_prompts(same)
    with pytest.raises(UserError, match=r"prompts of groat have \[4, 5\] tokens, and those of TRL \[5, 6\]"):
        check_same_prompts(same | {"TRL": {"prompt_tokens": [5, 6]}})


def test_a_peers_peak_is_not_what_its_parent_held():
    """As getrusage's is: a child begins with the peak of the process that started it."""
    held = b"x" * (500 * 2**20)
    program = "import peer_process; print(peer_process.peak_bytes())"
    peers = REPOSITORY / "benchmarks" / "peers"
    done = subprocess.run([sys.executable, "-c", program], cwd=peers, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 2**20 < len(held)


@pytest.mark.slow
def test_rollouts_beside_a_peer_end_in_a_file_without_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--small", "--repetitions", "1", "--results", str(tmp_path), "--peer", sys.executable]
    rollouts.main(options)
    text = (tmp_path / "rollouts-2x3x6-small.json").read_text()
    (case,) = json.loads(text)["cases"]
    assert case["summary"]["groat_against"]["transformers"].keys() == {"speed", "memory"}
    assert case["summary"]["shares"]["decode_share"]["median"] > 0
    assert case["repetitions"][0]["sides"]["groat"]["peak_gib"] > 0.1
    assert str(tmp_path) not in text
    assert sys.executable not in text
    assert str(Path.home()) not in text
    assert "[1/1] 2x3x6: transformers ..." in capsys.readouterr().out


@pytest.mark.slow
def test_steps_tell_their_phases_and_what_learning_reached(tmp_path: Path):
    steps.main(["--small", "--repetitions", "1", "--results", str(tmp_path), "--prompt-tokens", "60"])
    data = json.loads((tmp_path / "steps-2x3x6-prompts-of-60-small.json").read_text())
    (case,) = data["cases"]
    assert data["asked"]["model"] == "tiny"
    sizes = {"num_prompts": 2, "group_size": 3, "new_tokens": 6, "prompt_tokens": [60, 60]}
    assert case["work"] == sizes | {"num_measured": 1, "num_warm_up": 1}
    figures = case["repetitions"][0]["sides"]["groat"]
    assert figures["step_seconds"] >= figures["sample_seconds"] + figures["learn_seconds"]
    assert figures["learned"]["targets"] == 36
    assert 0 < case["summary"]["shares"]["learn_share"]["median"] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "options", "name", "cases"),
    [
        (scaling, ["completions"], "scaling-completions-small", ["8 completions", "12 completions"]),
        (scaling, ["lengths", "--lengths", "4"], "scaling-lengths-small", ["4 tokens"]),
        (long_context, ["--prompt-tokens", "80"], "long-context-small", ["prompts of 80"]),
    ],
)
def test_every_size_has_a_case(tmp_path: Path, benchmark: ModuleType, options: list[str], name: str, cases: list[str]):
    benchmark.main([*options, "--small", "--repetitions", "1", "--results", str(tmp_path)])
    data = json.loads((tmp_path / f"{name}.json").read_text())
    assert data["is_finished"]
    assert [case["case"] for case in data["cases"]] == cases
    assert all(case["summary"]["shares"]["decode_share"]["median"] > 0 for case in data["cases"])


@pytest.mark.parametrize(
    ("benchmark", "options", "words"),
    [
        (rollouts, ["--repetitions", "0"], "--repetitions must be at least 1, got 0"),
        (rollouts, ["--small", "--peer", "/no/python"], "--peer /no/python: there is no such program"),
        (rollouts, ["--small", "--new-tokens", "500"], "tokens were asked for, and the model's context has 512"),
        (scaling, ["completions", "--small", "--completions", "10"], "must be divisible by 4 and at least 8, got 10"),
        (scaling, ["lengths", "--small", "--completions", "8,16"], "must be one number where lengths grow, got 2"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_measured(benchmark: ModuleType, options: list[str], words: str):
    with pytest.raises(UserError, match=words):
        benchmark.main(options)
