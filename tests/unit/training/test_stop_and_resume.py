"""Stopping a run by signals, and going on with it, finished or not."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from tiny_runs import Ended, Span, events_of, groat, record_of, write_recipe

from groat.tracking.lock import RunLock

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run never stopped leaves behind."""
    folder = write_recipe(tmp_path_factory.mktemp("reference"))
    assert groat(folder, "train", "recipe.yaml").exit_code == 0
    return record_of(folder / "run")


def train(folder: Path, signals: dict[tuple[str, int], tuple[signal.Signals, ...]] | None = None) -> Ended:
    return groat(folder, "train", "recipe.yaml", signals=signals)


def steps_done(folder: Path) -> int:
    checkpoints = sorted((folder / "run" / "checkpoints").glob("step-*"))
    return int(checkpoints[-1].name.removeprefix("step-")) if checkpoints else 0


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_lets_the_step_finish_saves_and_exits_with_0(
    tmp_path: Path, reference: dict[str, Any], number: signal.Signals
) -> None:
    folder = write_recipe(tmp_path)
    stopped = train(folder, {("sample", 3): (number,)})
    assert stopped.exit_code == 0, stopped.output
    assert "Stopping after this step" in stopped.output
    assert "Stopped at step 3. Go on with: groat resume run" in stopped.output
    assert steps_done(folder) == 3
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == reference


def test_a_signal_during_an_evaluation_between_steps_saves_the_steps_before_it(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    # Evaluations: before, then after step 3. The last checkpoint of its own accord is that of step 2.
    folder = write_recipe(tmp_path)
    assert train(folder, {("evaluate", 2): (TERM,)}).exit_code == 0
    assert steps_done(folder) == 3
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == reference


@pytest.mark.parametrize("moment", [("load", 1), ("evaluate", 1)])
def test_a_signal_before_the_first_step_stops_without_training(
    tmp_path: Path, reference: dict[str, Any], moment: tuple[str, int]
) -> None:
    folder = write_recipe(tmp_path)
    stopped = train(folder, {moment: (TERM,)})
    assert stopped.exit_code == 0, stopped.output
    assert "step 1/" not in stopped.output
    assert "Held-out" not in stopped.output
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == reference


def test_a_second_ctrl_c_aborts_at_once_and_nothing_is_lost(tmp_path: Path, reference: dict[str, Any]) -> None:
    folder = write_recipe(tmp_path)
    aborted = train(folder, {("learn", 4): (INT, INT)})
    assert aborted.exit_code == 130
    assert "groat resume run" in aborted.output
    assert "Traceback" not in aborted.output
    assert steps_done(folder) == 2
    assert groat(folder, "resume", "run").exit_code == 0
    assert record_of(folder / "run") == reference


def test_a_finished_run_resumed_again_changes_nothing_and_prints_the_result(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path)
    assert train(folder).exit_code == 0
    before = record_of(folder / "run")
    again = groat(folder, "resume", "run", "--json")
    assert again.exit_code == 0
    assert "before and after training" in again.output
    assert json.loads(again.output.splitlines()[-1])["steps"] == 8
    assert "step 8/8" not in again.output
    assert record_of(folder / "run") == before


def test_more_steps_extend_a_run_and_the_changed_schedule_is_told(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 4})
    assert train(folder).exit_code == 0
    extended = groat(folder, "resume", "run", "--max-steps", "6")
    assert extended.exit_code == 0, extended.output
    assert steps_done(folder) == 6
    record = record_of(folder / "run")
    rates = [value for _, name, value in record["metrics"] if name == "learning_rate"]
    # Linear to step 4 while that was the end, linear to step 6 from then on: 1e-2 * (1 - (step - 1) / end).
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3, 1e-2 * 2 / 6, 1e-2 * 1 / 6])
    [(kind, message)] = events_of(folder / "run")
    assert kind == "learning rate"
    assert "ends at step 6" in message
    assert message in " ".join(extended.output.split())
    # It is the run's own number of steps from now on.
    assert json.loads((folder / "run" / "summary.json").read_text())["finished"]
    assert "max_steps: 6" in (folder / "run" / "config.yaml").read_text()


def test_extending_a_constant_schedule_gives_the_run_that_was_longer_from_the_start(tmp_path: Path) -> None:
    constant = {"lr_scheduler_type": "constant"}
    short = write_recipe(tmp_path / "short", training={**constant, "max_steps": 4})
    long = write_recipe(tmp_path / "long", training={**constant, "max_steps": 6})
    assert train(short).exit_code == train(long).exit_code == 0
    assert groat(short, "resume", "run", "--max-steps", "6").exit_code == 0
    ours, theirs = record_of(short / "run"), record_of(long / "run")
    # The short run was also evaluated when it first ended.
    for table in ("evaluations", "answers"):
        ours[table] = [row for row in ours[table] if row[0] != 4]
    assert ours == theirs
    assert events_of(short / "run") == []


def test_an_extended_run_that_is_killed_no_longer_counts_as_finished(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 4})
    assert train(folder).exit_code == 0
    killed = groat(folder, "resume", "run", "--max-steps", "6", signals={("learn", 1): (signal.SIGKILL,)})
    assert killed.exit_code == -signal.SIGKILL
    assert "interrupted" in groat(folder, "runs", ".").output


def test_fewer_steps_than_are_done_are_refused_and_change_nothing(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 4})
    assert train(folder).exit_code == 0
    before = record_of(folder / "run")
    refused = groat(folder, "resume", "run", "--max-steps", "3")
    assert refused.exit_code == 2
    assert "has trained 4 steps: ask for 4 or more" in " ".join(refused.output.split())
    assert record_of(folder / "run") == before
    assert "max_steps: 4" in (folder / "run" / "config.yaml").read_text()


def test_a_second_process_is_refused_with_the_first_ones_id(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 2})
    assert train(folder).exit_code == 0
    with RunLock(folder / "run"):
        refused = groat(folder, "resume", "run")
    assert refused.exit_code == 2
    assert "already trains in this folder" in " ".join(refused.output.split())
    again = train(folder)
    assert again.exit_code == 2
    assert "already holds a run. Go on with it: groat resume run" in " ".join(again.output.split())


def test_a_damaged_checkpoint_is_an_event_and_the_run_ends_in_the_same_bytes(
    tmp_path: Path, reference: dict[str, Any]
) -> None:
    folder = write_recipe(tmp_path)
    assert train(folder, {("learn", 7): (signal.SIGKILL,)}).exit_code == -signal.SIGKILL
    newest = folder / "run" / "checkpoints" / "step-00000006"
    (newest / "manifest.json").unlink()
    resumed = groat(folder, "resume", "run", "--quiet")
    assert resumed.exit_code == 0
    [(kind, message)] = events_of(folder / "run")
    assert kind == "checkpoint"
    assert f"checkpoint {Path('run/checkpoints/step-00000006')} is damaged" in message
    assert "warning (checkpoint)" in resumed.output
    assert record_of(folder / "run") == reference


def test_without_any_complete_checkpoint_the_run_begins_again(tmp_path: Path, reference: dict[str, Any]) -> None:
    folder = write_recipe(tmp_path)
    assert train(folder, {("learn", 3): (signal.SIGKILL,)}).exit_code == -signal.SIGKILL
    [only] = (folder / "run" / "checkpoints").glob("step-*")
    (only / "state.safetensors").write_bytes(b"")
    resumed = groat(folder, "resume", "run")
    assert resumed.exit_code == 0, resumed.output
    assert "step 1/8" in resumed.output
    assert record_of(folder / "run") == reference


@pytest.mark.parametrize(
    ("algorithm", "changed", "into"),
    [
        ({}, "\n  r: 2", "\n  r: 3"),
        ({"kind": "ppo", "value_lora_r": 2}, "value_lora_r: 2", "value_lora_r: 3"),
    ],
)
def test_a_checkpoint_of_other_sizes_is_refused_with_the_fields_to_put_back(
    tmp_path: Path, algorithm: dict[str, Any], changed: str, into: str
) -> None:
    folder = write_recipe(tmp_path, training={"max_steps": 2}, algorithm=algorithm)
    assert train(folder).exit_code == 0
    config = folder / "run" / "config.yaml"
    assert changed in config.read_text()
    config.write_text(config.read_text().replace(changed, into))
    refused = groat(folder, "resume", "run")
    assert refused.exit_code == 2
    assert "put model.name, lora.r and algorithm in run/config.yaml back" in " ".join(refused.output.split())


@pytest.mark.slow
def test_ppo_goes_on_with_its_value_model_whether_stopped_or_killed(tmp_path: Path) -> None:
    options = {"kind": "ppo", "num_ppo_epochs": 2, "num_mini_batches": 2, "kl_coef": 0.01, "value_lora_r": 2}
    whole, stopped, killed = (
        write_recipe(tmp_path / name, algorithm=options) for name in ("whole", "stopped", "killed")
    )
    assert groat(whole, "train", "recipe.yaml").exit_code == 0
    expected = record_of(whole / "run")
    name, state = expected["checkpoint"]
    tensors = safetensors.torch.load(state)
    assert name == "step-00000008"
    assert tensors["value.head.weight"].abs().min() > 0
    assert tensors["optimizer.value.head.bias.exp_avg_sq"] > 0
    assert train(stopped, {("sample", 3): (TERM,)}).exit_code == 0
    ended = groat(killed, "train", "recipe.yaml", kill_in=Span("learn", 6, 700))
    assert ended.output.endswith("killed in learn")
    for folder in (stopped, killed):
        assert groat(folder, "resume", "run").exit_code == 0
        assert record_of(folder / "run") == expected
