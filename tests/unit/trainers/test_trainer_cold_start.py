"""cold_start of the trainers' options: worked examples are learned before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_trainers import figures, toy_trainer

from groat.testing.toy_task import toy_rows
from groat.tracking.store import RunStore
from groat.trainers.trainer import TrainOutput
from groat.types import UserError


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """Every prompt is answered with vowels alone, which is what the toy task rewards."""
    path = tmp_path / "worked.jsonl"
    rows = [{"prompt": row["prompt"], "completion": "aeiouaei"} for row in toy_rows(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def losses(output: TrainOutput) -> list[float]:
    """Of the cold start."""
    with RunStore.read(Path(output.output_dir) / "run.sqlite") as reader:
        return [value for _, value in reader.metrics("cold_start/loss")]


def test_priming_lowers_its_loss_and_raises_the_first_reward(tmp_path: Path, examples: Path):
    cold_start = {"examples": examples, "num_train_epochs": 15, "batch_size": 8, "learning_rate": 3e-2}
    plain = toy_trainer(tmp_path, "plain", max_steps=1)
    plain.train()
    primed = toy_trainer(tmp_path, "primed", max_steps=1, cold_start=cold_start)
    learned = losses(primed.train())
    # 8 examples in batches of 8, 15 times: 15 steps.
    assert len(learned) == 15
    assert learned[-1] < learned[0] / 2
    first, first_primed = plain.state.log_history[0], primed.state.log_history[0]
    assert (first["step"], first_primed["step"]) == (1, 1)
    assert first_primed["reward"] > 5 * first["reward"]


def test_a_file_alone_is_a_cold_start_with_the_defaults(tmp_path: Path, examples: Path):
    trainer = toy_trainer(tmp_path, max_steps=1, cold_start=examples)
    assert trainer.config.cold_start.examples == str(examples)
    assert trainer.config.cold_start.num_train_epochs == 2
    assert len(losses(trainer.train())) == 2


def test_a_resumed_run_has_the_log_of_one_that_never_stopped(tmp_path: Path, examples: Path):
    options: dict[str, Any] = {"cold_start": examples, "save_steps": 1}
    whole = toy_trainer(tmp_path, "whole", max_steps=2, **options)
    whole.train()
    toy_trainer(tmp_path, "halves", max_steps=1, **options).train()
    second = toy_trainer(tmp_path, "halves", max_steps=2, **options)
    second.train(resume_from_checkpoint=True)
    assert figures(second) == figures(whole)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_train_epochs": 2}, "cold_start has no `examples`"),
        ({"examples": "worked.jsonl", "epochs": 2}, r"cold_start\.epochs"),
        ({"examples": "worked.jsonl", "batch_size": 0}, r"cold_start\.batch_size"),
    ],
)
def test_what_is_no_cold_start_is_told_by_name(tmp_path: Path, given: Any, words: str):
    with pytest.raises(UserError, match=words):
        toy_trainer(tmp_path, cold_start=given)
