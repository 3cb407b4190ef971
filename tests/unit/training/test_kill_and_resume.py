"""Acceptance: `kill -9` at any instant, then `groat resume`, ends in the same bytes as a run never stopped."""

import random
import signal
from pathlib import Path

import pytest
from tiny_runs import groat, record_of, write_recipe

PHASES = ("load", "evaluate", "sample", "learn", "save")
KILLS = [(phase, seed) for phase in PHASES for seed in (1, 2)]


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_in_the_bytes_of_one_never_stopped(tmp_path: Path) -> None:
    whole = write_recipe(tmp_path / "whole")
    reference = groat(whole, "train", "recipe.yaml", trace=True)
    assert reference.exit_code == 0, reference.output
    expected = record_of(whole / "run")
    assert any(metric == "grad_norm" and value > 0 for _, metric, value in expected["metrics"])
    for phase, seed in KILLS:
        chance = random.Random(f"{phase} {seed}")
        span = chance.choice([span for span in reference.spans if span.name == phase])
        folder = write_recipe(tmp_path / f"{phase}-{seed}")
        killed = groat(folder, "train", "recipe.yaml", kill_in=span._replace(calls=chance.randint(1, span.calls)))
        assert killed.exit_code == -signal.SIGKILL
        assert killed.output.endswith(f"killed in {phase}"), killed.output[-300:]
        resumed = groat(folder, "resume", "run")
        assert resumed.exit_code == 0, resumed.output
        assert record_of(folder / "run") == expected, (phase, seed)
