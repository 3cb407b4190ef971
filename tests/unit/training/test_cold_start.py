"""A run with a cold start: what it leaves, where it goes on, and what reinforcement learning holds to."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import groat, record_of, refusal, write_recipe

COLD = {"examples": "examples.jsonl", "batch_size": 3, "save_steps": 2, "learning_rate": 1e-2}
NUM_STEPS = 6
"""Seven examples, three at a time, twice."""


def recipe(folder: Path, cold: dict[str, Any] | None = None, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": f"{n} " * (1 + n % 3)}]}
        for n in range(7)
    ]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"algorithm": {"beta": 0.05}, "training": {"max_steps": 3}} | changes
    sections = {name: {**values} for name, values in changes.items()}
    sections.setdefault("training", {})
    return write_recipe(folder, cold_start={**COLD, **(cold or {})}, **sections)


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    connection = sqlite3.connect(folder / "run" / "run.sqlite")
    found: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in connection.execute("SELECT step, name, value FROM metrics ORDER BY step"):
        found.setdefault(name, []).append((step, value))
    connection.close()
    return found


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run never stopped."""
    folder = recipe(tmp_path_factory.mktemp("whole"))
    ended = groat(folder, "train", "recipe.yaml", trace=True)
    assert ended.exit_code == 0, ended.output
    (folder / "calls.json").write_text(json.dumps([span for span in ended.spans if span.name == "prime"]))
    return folder


def test_its_steps_are_numbered_up_to_0_and_their_loss_falls(whole: Path) -> None:
    found = metrics(whole)
    losses = found["cold_start/loss"]
    assert [step for step, _ in losses] == [-5, -4, -3, -2, -1, 0]
    assert losses[0][1] > losses[-1][1] + 0.3
    assert [step for step, _ in found["cold_start/token_accuracy"]] == [-5, -4, -3, -2, -1, 0]
    # Linear from 1e-2 over 6 steps; reinforcement learning then begins anew with its own.
    rates = [value for _, value in found["cold_start/learning_rate"]]
    assert rates == pytest.approx([1e-2 * (1 - step / 6) for step in range(6)])
    assert [value for _, value in found["learning_rate"]] == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
    evaluations = record_of(whole / "run")["evaluations"]
    assert sorted({row[0] for row in evaluations}) == [-6, 0, 3]


def test_reinforcement_learning_starts_from_the_primed_adapter_with_a_new_optimizer(whole: Path) -> None:
    folder = whole / "run" / "checkpoints" / "step-00000002"
    state = load_file(folder / "state.safetensors")
    # Two updates of its own; the cold start's six are not among them.
    assert {float(value) for name, value in state.items() if name.endswith(".step")} == {2.0}
    assert json.loads((folder / "progress.json").read_text())["policy_version"] == 2


def test_the_reference_policy_is_the_primed_adapter_or_the_base_as_asked(whole: Path, tmp_path: Path) -> None:
    kl = metrics(whole)["kl"]
    assert kl[0] == (1, pytest.approx(0, abs=1e-12))
    assert kl[-1][1] > 0
    base = recipe(tmp_path, {"reference": "base"})
    assert groat(base, "train", "recipe.yaml").exit_code == 0
    assert metrics(base)["kl"][0][1] > 1e-3
    state = load_file(whole / "run" / "checkpoints" / "step-00000003" / "state.safetensors")
    reference = {name: tensor for name, tensor in state.items() if name.startswith("reference.")}
    trained = {f"reference.{name.removeprefix('adapter.')}" for name in state if name.startswith("adapter.")}
    assert reference.keys() == trained
    assert not any(
        torch.equal(tensor, state[name.replace("reference.", "adapter.")]) for name, tensor in reference.items()
    )
    without = load_file(base / "run" / "checkpoints" / "step-00000003" / "state.safetensors")
    assert not any(name.startswith("reference.") for name in without)


def test_priming_alone_and_going_on_is_the_run_that_did_both(whole: Path, tmp_path: Path) -> None:
    folder = recipe(tmp_path)
    primed = groat(folder, "prime", "recipe.yaml")
    assert primed.exit_code == 0, primed.output
    assert checkpoints(folder) == ["prime-00000004", "prime-00000006"]
    assert (folder / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert "Go on with: groat resume run" in primed.output
    assert "reward" not in metrics(folder)
    shown = groat(folder, "runs", "show", "run").output
    assert "After the cold start" in shown
    assert "6 steps, loss" in shown
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == record_of(whole / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cold_start_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, whole: Path, number: signal.Signals
) -> None:
    folder = recipe(tmp_path)
    groat(folder, "train", "recipe.yaml", signals={("prime", 4): (number,)})
    assert checkpoints(folder)[-1] == ("prime-00000004" if number == signal.SIGTERM else "prime-00000002")
    resumed = groat(folder, "resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert f"Going on from the checkpoint of step {4 if number == signal.SIGTERM else 2} of the cold start's 6" in (
        resumed.output
    )
    assert record_of(folder / "run") == record_of(whole / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment_of_priming_it_ends_in_the_same_bytes(tmp_path: Path, whole: Path, seed: int) -> None:
    from tiny_runs import Span

    chance = random.Random(seed)
    span = Span(*chance.choice(json.loads((whole / "calls.json").read_text())))
    folder = recipe(tmp_path)
    killed = groat(folder, "train", "recipe.yaml", kill_in=span._replace(calls=chance.randint(1, span.calls)))
    assert killed.exit_code == -signal.SIGKILL
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == record_of(whole / "run")


def test_a_run_stopped_after_its_cold_start_keeps_the_reference_policy(tmp_path: Path, whole: Path) -> None:
    folder = recipe(tmp_path)
    groat(folder, "train", "recipe.yaml", signals={("learn", 3): (signal.SIGKILL,)})
    assert checkpoints(folder)[-1] == "step-00000002"
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == record_of(whole / "run")


def test_other_examples_than_it_was_begun_with_are_refused(tmp_path: Path) -> None:
    folder = recipe(tmp_path)
    groat(folder, "train", "recipe.yaml", signals={("prime", 3): (signal.SIGKILL,)})
    examples = folder / "examples.jsonl"
    examples.write_text(examples.read_text().replace("Say 3", "Say 4"))
    assert "are not what this run's cold start was begun with" in refusal(groat(folder, "resume", "run"))


def test_priming_without_examples_is_refused(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    assert "name a file of worked examples in cold_start.examples" in refusal(groat(folder, "prime", "recipe.yaml"))
    assert not (folder / "run").exists()


def test_examples_that_are_too_long_are_left_out_and_counted_or_refused(tmp_path: Path) -> None:
    # One token a byte: "<|im_start|>user\nSay 3<|im_end|>\n<|im_start|>assistant\n3 <|im_end|>" has 1 + 10 + 1 + 1 +
    # 1 + 10 + 2 + 1 = 27; a number said three times 31.
    folder = recipe(tmp_path, {"max_length": 30})
    ended = groat(folder, "prime", "recipe.yaml")
    assert ended.exit_code == 0, ended.output
    assert "left out 2 of 7 examples, longer than 30 tokens" in ended.output
    assert len(metrics(folder)["cold_start/loss"]) == 4  # two epochs of five examples, three at a time
    (tmp_path / "short").mkdir()
    short = recipe(tmp_path / "short", {"max_length": 5})
    assert "every example of examples.jsonl is longer than 5 tokens" in refusal(groat(short, "prime", "recipe.yaml"))


def test_max_steps_counts_in_place_of_epochs(tmp_path: Path) -> None:
    folder = recipe(tmp_path, {"max_steps": 1})
    assert groat(folder, "prime", "recipe.yaml").exit_code == 0
    assert [step for step, _ in metrics(folder)["cold_start/loss"]] == [0]
