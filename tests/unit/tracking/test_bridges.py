"""Bridges: what other trackers are told, read back from them; and that a failing one stops nothing."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from groat.config.load import from_command_line
from groat.config.tree import RunConfig, TrackConfig
from groat.testing import tiny_model, toy_task
from groat.tracking.bridges import BridgedRun, Bridges, bridges
from groat.tracking.console import Console
from groat.tracking.store import RunStore
from groat.training.run import resume, train
from groat.types import UserError


class Recording:
    """A bridge that keeps what it is told, and raises where it is asked to."""

    def __init__(self, fails_in: str = "") -> None:
        self.fails_in = fails_in
        self.told: list[tuple[str, Any]] = []

    def begin(self, run: BridgedRun) -> None:
        self._note("begin", run.first_step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._note("log", (step, dict(figures)))

    def end(self, *, finished: bool) -> None:
        self._note("end", finished)

    def _note(self, name: str, value: Any) -> None:
        self.told.append((name, value))
        if name == self.fails_in:
            raise OSError("no network")


@pytest.fixture
def toy_run(tmp_path: Path) -> RunConfig:
    config = RunConfig()
    return dataclasses.replace(
        config,
        output_dir=str(tmp_path / "run"),
        model=dataclasses.replace(config.model, name=str(tiny_model(tmp_path / "model"))),
        sampling=dataclasses.replace(config.sampling, max_completion_length=4, num_generations=4),
        training=dataclasses.replace(config.training, max_steps=2, generation_batch_size=8),
        evaluation=dataclasses.replace(config.evaluation, num_problems=2, num_samples=1),
    )


def reporting(config: RunConfig, *names: Any) -> RunConfig:
    return dataclasses.replace(config, track=TrackConfig(report_to=names, project="toys", run_name="first"))


def run(config: RunConfig) -> None:
    train(config, Console(quiet=True), toy_task(8, 2))


def recorded(config: RunConfig, name: str) -> list[tuple[int, float]]:
    """What the run's own record holds."""
    with RunStore.read(Path(config.output_dir) / "run.sqlite") as reader:
        return reader.metrics(name)


def stand_in(monkeypatch: pytest.MonkeyPatch, **made: Recording) -> None:
    monkeypatch.setattr(bridges, "_bridge", lambda name: made[name])
    monkeypatch.setattr(bridges, "check_trackers", lambda names: None)
    monkeypatch.setattr("groat.training.run.check_trackers", lambda names: None)


def test_a_bridge_is_told_begin_evaluations_steps_and_end(toy_run: RunConfig, monkeypatch: pytest.MonkeyPatch):
    told = Recording()
    stand_in(monkeypatch, wandb=told)
    run(reporting(toy_run, "wandb"))
    names = [name for name, _ in told.told]
    assert names == ["begin", "log", "log", "log", "log", "end"]
    logs = [value for name, value in told.told if name == "log"]
    assert [step for step, _ in logs] == [0, 1, 2, 2]
    assert set(logs[0][1]) == {"eval/avg@1", "eval/pass@1", "eval/greedy"}
    rewards = [(step, figures["train/reward"]) for step, figures in logs[1:3]]
    assert rewards == recorded(toy_run, "reward")
    assert logs[1][1]["train/step_time"] > 0
    assert told.told[0] == ("begin", 0)
    assert told.told[-1] == ("end", True)


@pytest.mark.parametrize("fails_in", ["begin", "log", "end"])
def test_a_failing_bridge_is_told_about_once_and_stops_nothing(
    toy_run: RunConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails_in: str
):
    failing, other = Recording(fails_in), Recording()
    stand_in(monkeypatch, wandb=failing, mlflow=other)
    with caplog.at_level(logging.WARNING, "groat"):
        run(reporting(toy_run, "wandb", "mlflow"))
    [warning] = [record.message for record in caplog.records if "no longer reports" in record.message]
    assert warning.startswith("wandb failed (OSError: no network)")
    assert [name for name, _ in other.told] == ["begin", "log", "log", "log", "log", "end"]
    assert len(recorded(toy_run, "reward")) == 2
    # After its first failure it is only told to end.
    first = [name for name, _ in failing.told].index(fails_in)
    assert [name for name, _ in failing.told][first + 1 :] == ([] if fails_in == "end" else ["end"])


def test_a_bridge_that_cannot_even_be_made_stops_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: Any):
    def broken(name: str) -> Any:
        raise ImportError(f"{name} needs another numpy")

    monkeypatch.setattr(bridges, "_bridge", broken)
    with caplog.at_level(logging.WARNING, "groat"):
        all_of_them = Bridges(["trackio"])
        all_of_them.log(1, {"reward": 1.0})
        all_of_them.end(finished=True)
    assert caplog.text.count("trackio failed (ImportError: trackio needs another numpy)") == 1


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_made(
    toy_run: RunConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'has mlflow, but mlflow is not installed: pip install "groat\[mlflow\]"'):
        run(reporting(toy_run, "mlflow"))
    assert not Path(toy_run.output_dir).exists()


def test_trackers_are_named_in_recipes_and_flags():
    config = from_command_line(["--track.report-to", "wandb", "tensorboard"], RunConfig())
    assert config.track.report_to == ("wandb", "tensorboard")
    with pytest.raises(ValueError, match="names a tracker twice"):
        TrackConfig(report_to=("wandb", "wandb"))


def test_tensorboard_holds_the_figures_of_the_run_and_those_of_a_resumed_one(toy_run: RunConfig):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = reporting(toy_run, "tensorboard")
    run(config)
    resume(Path(config.output_dir), Console(quiet=True), 3, toy_task(8, 2))
    events = EventAccumulator(str(Path(config.output_dir) / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/reward")]
    assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in recorded(config, "reward")]
    assert [step for step, _ in found] == [1, 2, 3]
    assert [event.step for event in events.Scalars("eval/greedy")] == [0, 2, 3]
    config_text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert 'track.run_name: "first"' in config_text


def test_mlflow_holds_the_figures_and_the_config_of_one_run(
    toy_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = reporting(toy_run, "mlflow")
    run(config)
    resume(Path(config.output_dir), Console(quiet=True), 3, toy_task(8, 2))
    client = MlflowClient()
    [found] = client.search_runs([client.get_experiment_by_name("toys").experiment_id])
    history = client.get_metric_history(found.info.run_id, "train/reward")
    assert [(point.step, point.value) for point in history] == recorded(config, "reward")
    assert len(history) == 3
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params["sampling.max_completion_length"] == "4"
    assert found.data.metrics["eval/avg_1"] == 0.0


def test_wandb_holds_the_figures_offline(toy_run: RunConfig, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = reporting(toy_run, "wandb")
    run(config)
    [file] = Path(config.output_dir).glob("wandb/offline-run-*/run-*.wandb")
    rows = wandb_history(file)
    assert [(int(row["_step"]), row["train/reward"]) for row in rows if "train/reward" in row] == recorded(
        config, "reward"
    )
    assert [int(row["_step"]) for row in rows if "eval/greedy" in row] == [0, 2]
    assert (Path(config.output_dir) / "wandb-run-id").read_text().strip() in file.name


def wandb_history(file: Path) -> list[dict[str, float]]:
    """The rows of an offline run's file."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in level_db_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
    return rows


def level_db_records(log: bytes) -> list[bytes]:
    """Records in LevelDB's log format: pieces of whole records (1), or first, middle and last ones (2, 3, 4)."""
    records, place, piece = [], 7, b""  # W&B's own header comes first
    while place + 7 <= len(log):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(log[place + 4 : place + 6], "little"), log[place + 6]
        piece += log[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            records.append(piece)
            piece = b""
    return records


def test_trackio_holds_the_figures(toy_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    config = reporting(toy_run, "trackio")
    run(config)
    rows = SQLiteStorage.get_logs("toys", "first")
    assert [(row["step"], row["train/reward"]) for row in rows if "train/reward" in row] == recorded(config, "reward")
    assert [row["step"] for row in rows if "eval/greedy" in row] == [0, 2]
