"""The toy dialogue: its reward by hand, and a tiny model that learns both turns of it."""

from pathlib import Path

import pytest

from groat.config.tree import EvaluationConfig, LoraConfig, ModelConfig, RunConfig, SamplingConfig, TrainingConfig
from groat.testing import tiny_model, toy_dialogue_task
from groat.testing.toy_dialogue import STOPS, soon
from groat.tracking.console import Console
from groat.tracking.store import RunStore
from groat.training.run import train


def test_reward_by_hand():
    first = [{"role": "assistant", "content": "xyz"}]
    both = [*first, {"role": "user", "content": "Again!"}, {"role": "assistant", "content": ""}]
    # 1 / (1 + 3) and 1 / (1 + 0), over two turns; what the environment said does not count.
    assert soon([first, both]) == [0.125, 0.625]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_model_learns_both_turns(tmp_path: Path, seed: int):
    config = RunConfig(
        seed=seed,
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(name=str(tiny_model(tmp_path / "model", seed=seed))),
        lora=LoraConfig(r=8, lora_alpha=16),
        sampling=SamplingConfig(max_completion_length=48, stop=STOPS),
        training=TrainingConfig(
            max_steps=20, generation_batch_size=32, learning_rate=3e-2, lr_scheduler_type="constant", save_steps=20
        ),
        evaluation=EvaluationConfig(num_problems=8),
    )
    summary = train(config, Console(quiet=True), toy_dialogue_task())
    assert summary.greedy_before is not None
    assert summary.greedy_after is not None
    # Both turns must begin with a vowel: a random model does that in one of 600 completions. Seeds 0 and 1 ended at 1.
    assert (summary.greedy_before.value, summary.greedy_after.value >= 0.75) == (0.0, True)
    with RunStore.read(tmp_path / "run" / "run.sqlite") as reader:
        differences = [value for _, value in reader.metrics("sampling/sampling_logp_difference/max")]
        last = reader.rollouts(20)
    assert max(differences) < 1e-4
    answered = [row for row in last if len(row.turns) == 3]
    assert len(answered) > len(last) / 2
    assert {(row.turns[1].role, row.turns[1].content) for row in answered} == {("user", "Again!")}
