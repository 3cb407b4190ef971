"""The toy task: its reward by hand, and a tiny model that learns it."""

from pathlib import Path

import pytest

from groat.config.tree import EvaluationConfig, LoraConfig, ModelConfig, RunConfig, SamplingConfig, TrainingConfig
from groat.testing import tiny_model, toy_rows, toy_task, vowel_share
from groat.tracking.console import Console
from groat.tracking.store import RunStore
from groat.training.run import train


def test_vowel_share_by_hand():
    # "aXe!": 2 of 4 characters. Chat turns count as their content. Nothing written earns nothing.
    assert vowel_share(["aXe!", [{"role": "assistant", "content": "IOU"}], ""]) == [0.5, 1.0, 0.0]


def test_rows_differ_and_none_is_both_trained_on_and_held_out():
    task = toy_task(num_problems=4, num_held_out=3)
    assert len({str(row["prompt"]) for row in toy_rows(20)}) == 20
    assert (len(task.train), len(task.held_out)) == (4, 3)
    assert not {problem.id for problem in task.train} & {problem.id for problem in task.held_out}
    assert task.is_correct(task.held_out[0], "aeiou")
    assert not task.is_correct(task.held_out[0], "aeiouy")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_model_learns_it_in_20_steps(tmp_path: Path, seed: int):
    config = RunConfig(
        seed=seed,
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(name=str(tiny_model(tmp_path / "model", seed=seed))),
        lora=LoraConfig(r=8, lora_alpha=16),
        sampling=SamplingConfig(max_completion_length=8),
        training=TrainingConfig(
            max_steps=20, generation_batch_size=32, learning_rate=3e-2, lr_scheduler_type="constant", save_steps=20
        ),
        evaluation=EvaluationConfig(num_problems=0),
    )
    train(config, Console(quiet=True), toy_task())
    with RunStore.read(tmp_path / "run" / "run.sqlite") as reader:
        rewards = [value for _, value in reader.metrics("reward")]
    # A uniform draw of bytes has about 4% vowels. Seeds 0 to 7 ended between 0.25 and 0.83.
    assert rewards[0] < 0.08
    assert sum(rewards[-5:]) / 5 > 0.2
