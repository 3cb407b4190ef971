"""Callbacks in transformers' way, with and without transformers."""

import logging
from pathlib import Path
from typing import Any

import pytest
from toy_trainers import toy_trainer

from groat.types import UserError


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.rewards: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("begin", state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("step", state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.rewards.append(logs["reward"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(("end", state.global_step))


def test_events_come_in_order_with_the_logs_of_the_step(tmp_path: Path):
    recorder = Recorder()
    trainer = toy_trainer(tmp_path, max_steps=2, callbacks=[recorder])
    trainer.train()
    assert recorder.events == [("begin", 0), ("step", 1), ("step", 2), ("end", 2)]
    assert recorder.rewards == [entry["reward"] for entry in trainer.state.log_history]


def test_a_callback_that_never_gets_called_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class OnSave:
        def on_save(self, *_: Any, **kwargs: Any) -> None: ...

    with caplog.at_level(logging.WARNING, "groat"):
        toy_trainer(tmp_path, callbacks=[OnSave()])
    assert "callback OnSave: groat never calls on_save" in caplog.text
    with pytest.raises(UserError, match="the callback object has none of on_init_end"):
        toy_trainer(tmp_path, callbacks=[object()])


def test_what_is_not_heeded_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Saver:
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_save = True

    with caplog.at_level(logging.WARNING, "groat"):
        toy_trainer(tmp_path, max_steps=2, callbacks=[Saver()]).train()
    assert caplog.text.count("a callback set control.should_save, which groat does not heed") == 1


def test_a_transformers_callback_stops_training(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop = True
            return control

    with caplog.at_level(logging.WARNING, "groat"):
        result = toy_trainer(tmp_path, callbacks=[Stop]).train()
    assert (result.steps, result.finished) == (1, False)
    assert "never calls" not in caplog.text
    assert (tmp_path / "run" / "checkpoints" / "step-00000001").is_dir()
