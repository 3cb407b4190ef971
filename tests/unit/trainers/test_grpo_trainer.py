"""A GRPOTrainer learns, is resumed bit for bit, evaluates and saves."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_trainers import figures, toy_trainer

from groat.cli.main import main
from groat.config.load import read_yaml
from groat.testing import toy_rows, vowel_share
from groat.types import UserError


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("seed", [1, 4])
def test_the_toy_reward_rises(tmp_path: Path, seed: int):
    trainer = toy_trainer(tmp_path, max_steps=20, seed=seed, save_strategy="no")
    before = trainer.evaluate(toy_rows(30)[20:])["eval_reward"]
    result = trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    after = trainer.evaluate(toy_rows(30)[20:])["eval_reward"]
    # About 4% of random bytes are vowels.
    assert max(before, rewards[0]) < 0.1
    assert sum(rewards[-5:]) / 5 > 0.4
    assert after > 0.4
    assert result.finished
    assert result.global_step == result.steps == 20
    assert result.metrics["epoch"] == 20 * 4 / 16
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000020"]


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path):
    whole = toy_trainer(tmp_path, "whole")
    whole.train()
    stopped = toy_trainer(tmp_path, "parts", callbacks=[StopAt(2)])
    assert not stopped.train().finished
    assert stopped.state.global_step == 2
    resumed = toy_trainer(tmp_path, "parts")
    assert resumed.train(resume_from_checkpoint=True).finished
    assert figures(resumed) == figures(whole)
    assert len(figures(whole)) == 4
    weights = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_same_trainer_can_go_on_and_start_only_once(tmp_path: Path):
    trainer = toy_trainer(tmp_path, max_steps=3, callbacks=[StopAt(1)])
    trainer.train()
    with pytest.raises(UserError, match="this trainer has trained already"):
        trainer.train()
    trainer._callbacks._callbacks.clear()
    assert trainer.train(resume_from_checkpoint=True).steps == 3
    assert [entry["step"] for entry in trainer.state.log_history] == [1, 2, 3]


def test_going_on_with_other_rows_or_options_is_refused(tmp_path: Path):
    toy_trainer(tmp_path, callbacks=[StopAt(1)]).train()
    with pytest.raises(UserError, match=r"training.learning_rate: 0.03 then, 0.01 now\. Put them back"):
        toy_trainer(tmp_path, learning_rate=0.01).train(resume_from_checkpoint=True)
    with pytest.raises(
        UserError, match=r"train_dataset is not the one that the run in .*run was started with: at step 1"
    ):
        toy_trainer(tmp_path, rows=toy_rows(20)[4:]).train(resume_from_checkpoint=str(tmp_path / "run"))
    with pytest.raises(UserError, match="give the run's folder"):
        toy_trainer(tmp_path).train(resume_from_checkpoint=tmp_path / "run" / "checkpoints" / "step-00000001")
    assert toy_trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=True).steps == 2


def test_an_output_dir_that_holds_a_run_is_not_overwritten(tmp_path: Path):
    toy_trainer(tmp_path, max_steps=1).train()
    with pytest.raises(
        UserError, match=r"already holds a run\. To go on with it: train\(resume_from_checkpoint=True\)"
    ):
        toy_trainer(tmp_path, max_steps=1).train()
    assert toy_trainer(tmp_path, "{name}", max_steps=1).train().output_dir == str(tmp_path / "model-python-1")
    with pytest.raises(
        UserError, match=r"names no run: give resume_from_checkpoint .*, one of .*/model-python-1, .*/run"
    ):
        toy_trainer(tmp_path, "{name}").train(resume_from_checkpoint=True)


def test_the_command_line_says_how_to_resume_a_run_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    toy_trainer(tmp_path, callbacks=[StopAt(1)]).train()
    assert read_yaml(tmp_path / "run" / "config.yaml").task.name == "python"
    assert main(["resume", str(tmp_path / "run")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "this run was started from Python" in error
    assert "Run the script again with trainer.train(resume_from_checkpoint=True)" in error


def test_save_model_copies_the_adapter(tmp_path: Path):
    trainer = toy_trainer(tmp_path, max_steps=1)
    with pytest.raises(UserError, match="nothing is trained yet"):
        trainer.save_model(tmp_path / "saved")
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"]) == (8, 16)
    name = "adapter_model.safetensors"
    assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "run" / "adapter" / name).read_bytes()


def test_evaluations_of_the_run_are_logged(tmp_path: Path):
    trainer = toy_trainer(
        tmp_path,
        max_steps=2,
        eval_dataset=toy_rows(20)[16:],
        eval_strategy="steps",
        eval_steps=1,
        num_generations_eval=2,
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_greedy" in entry]
    assert [entry["step"] for entry in evaluations] == [0, 1, 2]
    assert set(evaluations[0]) == {"eval_avg@2", "eval_pass@2", "eval_greedy", "step", "epoch"}


def test_updates_are_counted_as_in_trl(tmp_path: Path):
    # Two updates from the same completions: four updates are two steps.
    trainer = toy_trainer(tmp_path, max_steps=4, num_iterations=2, learning_rate=1e-3)
    result = trainer.train()
    assert (result.steps, result.global_step, trainer.state.max_steps) == (2, 4, 4)
    assert [entry["step"] for entry in trainer.state.log_history] == [2, 4]


def test_reward_functions_see_the_trainers_state(tmp_path: Path):
    seen: list[int] = []

    async def later(completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float]:
        seen.append(trainer_state.global_step)
        return vowel_share(completions)

    def now(completions: list[Any], trainer_state: Any) -> list[float]:
        seen.append(trainer_state.global_step)
        return vowel_share(completions)

    trainer = toy_trainer(tmp_path, max_steps=2, reward_funcs=[later, now], reward_weights=[1, 3])
    trainer.train()
    assert sorted(seen) == [0, 0, 1, 1]
    entry = trainer.state.log_history[0]
    assert entry["reward"] == pytest.approx(entry["rewards/later/mean"] + 3 * entry["rewards/now/mean"])


def test_unshuffled_rows_come_in_order_in_every_epoch(tmp_path: Path):
    order: list[str] = []

    def reward(completions: list[Any], name: list[str], **kwargs: Any) -> list[float]:
        order.extend(dict.fromkeys(name))
        return [1.0] * len(completions)

    rows = [{**row, "name": f"row {number}"} for number, row in enumerate(toy_rows(3))]
    toy_trainer(
        tmp_path, rows=rows, reward_funcs=reward, shuffle_dataset=False, max_steps=3, per_device_train_batch_size=16
    ).train()
    assert order == [f"row {number}" for number in (0, 1, 2, 0, 1, 2)]


def test_num_train_epochs_decide_without_max_steps(tmp_path: Path):
    # 6 rows in groups of 8 are 48 completions an epoch; 2 epochs in steps of 32 are 3 steps.
    trainer = toy_trainer(tmp_path, rows=iter(toy_rows(6)), max_steps=-1, num_train_epochs=2)
    assert trainer.config.training.max_steps == 3


def test_a_datasets_dataset_trains(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    trainer = toy_trainer(tmp_path, rows=datasets.Dataset.from_list(toy_rows(4)), max_steps=1)
    assert trainer.train().finished
