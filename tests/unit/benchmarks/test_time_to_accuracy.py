"""The same training for every side, groat's own rewards for peers, and results that survive an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from known_specs import SMOLLM2_135M

from benchmarks import time_to_accuracy
from benchmarks.accuracy_results import AccuracyResults, accuracy_report
from benchmarks.curves import Point
from benchmarks.machine import REPOSITORY
from benchmarks.sides import records
from benchmarks.training_work import TrainingWork, trl_options
from groat.config.load import read_yaml
from groat.config.tree import LoraConfig
from groat.model.lora import new_adapter
from groat.model.peft_files import load_peft
from groat.tasks.task import build_task
from groat.tracking.rows import Evaluation
from groat.types import UserError

RECIPE = read_yaml(REPOSITORY / "recipes" / "arithmetic.yaml")


@pytest.fixture
def work(tmp_path: Path) -> TrainingWork:
    config = replace(RECIPE, lora=LoraConfig(r=2), training=replace(RECIPE.training, max_steps=10))
    return TrainingWork(folder=tmp_path / "work", config=config, every=4)


def point(steps: int, seconds: float, value: float) -> Point:
    return Point(steps=steps, seconds=seconds, figures={"avg@4": Evaluation(value, value - 0.1, value + 0.1, 200)})


def test_trl_is_asked_for_the_demos_training():
    options = trl_options(RECIPE)
    sampling = {"num_generations": 8, "generation_batch_size": 64, "max_completion_length": 40, "temperature": 1.0}
    loss = {"loss_type": "dapo", "beta": 0.0, "epsilon": 0.2, "num_iterations": 1, "scale_rewards": "group"}
    optimizer = {"optim": "adamw_torch_fused", "learning_rate": 3e-4, "lr_scheduler_type": "linear"}
    adam = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0}
    assert options.items() >= (sampling | loss | optimizer | adam | {"max_steps": 24, "seed": 0}).items()


def test_the_files_hold_the_problems_of_every_step_in_order(work: TrainingWork):
    work.write(SMOLLM2_135M)
    rows = [json.loads(line) for line in (work.folder / "problems.jsonl").read_text().splitlines()]
    train = build_task(RECIPE.task, RECIPE.seed).train
    assert [row["id"] for row in rows] == [train[place].id for place in range(80)]
    assert rows[79]["prompt"] == [dict(turn) for turn in train[79].prompt]
    assert rows[79]["columns"]["answer"] == train[79].columns["answer"]
    read = TrainingWork.read(work.folder)
    assert read == work
    assert [problem.id for problem in read.problems[9]] == [row["id"] for row in rows[72:]]


def test_adapters_are_saved_every_so_many_steps_and_at_the_end(work: TrainingWork):
    assert work.saved_steps == [4, 8, 10]
    assert replace(work, every=5).saved_steps == [5, 10]
    assert replace(work, every=100).saved_steps == [10]


def test_all_sides_start_from_the_adapter_that_groat_would_make_itself(work: TrainingWork):
    work.write(SMOLLM2_135M)
    assert work.adapter("groat", 0) == work.adapter("TRL", 0) != work.adapter("TRL", 4)
    found = load_peft(work.adapter("TRL", 0), SMOLLM2_135M).named_tensors()
    own = new_adapter(SMOLLM2_135M, work.config.lora, torch.Generator().manual_seed(0)).named_tensors()
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_a_peers_completions_get_the_tasks_own_rewards(work: TrainingWork):
    """Weights 1, 0.5 and 0.2: all right is 1.7; steps that are written and wrong earn the last alone."""
    work.write(SMOLLM2_135M)
    first, second = work.problems[0][:2]
    texts = [first.columns["solution"], "1 + 1 = 5\nAnswer: 999", second.columns["solution"], "no idea"]
    asked = {"problem_ids": [first.id, first.id, second.id, second.id], "texts": texts}
    command = [sys.executable, "-m", "benchmarks.reward_worker", str(work.folder)]
    lines = f"{json.dumps(asked)}\n{json.dumps(asked)}\n"
    done = subprocess.run(command, cwd=REPOSITORY, input=lines, capture_output=True, text=True, check=True)
    once, again = map(json.loads, done.stdout.splitlines())
    assert once == again
    assert once[0] == once[2] == pytest.approx(1.7)
    assert once[3] == 0
    assert 0 <= once[1] <= 0.2


def test_results_are_there_after_every_step_and_evaluation(work: TrainingWork, tmp_path: Path):
    path = tmp_path / "new" / "race.json"
    results = AccuracyResults(path, work, 0.40, reuse=False)
    for side, seconds in {"groat": 2.0, "TRL": 30.0}.items():
        assert results.begin(side, {"storage": "f32"})
        for step in (1, 2):
            results.add_step(side, {"step": step, "seconds": seconds, "reward": 0.5})
            assert json.loads(path.read_text())["sides"][side]["step_seconds"] == [seconds] * step
    results.add_facts("TRL", {"peak_gib": 5.0, "versions": {"trl": "1.16"}})
    results.add_point("groat", point(4, 8.0, 0.41))
    assert json.loads(path.read_text())["summary"]["times_less"] == {}
    results.add_point("TRL", point(4, 120.0, 0.43))
    data = json.loads(path.read_text())
    assert data["summary"]["times_less"] == data["summary"]["step_speed"] == {"TRL": 15.0}
    assert data["versions"]["TRL"] == {"trl": "1.16"}
    assert data["sides"]["TRL"]["facts"] == {"peak_gib": 5.0}
    assert not data["is_finished"]
    assert "to avg@4 of 40% groat takes 15.00 times less time than TRL" in list(accuracy_report(data))


def test_reuse_keeps_a_trained_side_with_its_curve_and_trains_an_interrupted_one_anew(
    work: TrainingWork, tmp_path: Path
):
    path = tmp_path / "race.json"
    before = AccuracyResults(path, work, 0.40, reuse=False)
    for side in ("groat", "TRL"):
        before.begin(side, {"storage": "f32"})
        before.add_step(side, {"step": 1, "seconds": 2.0, "reward": 0.5})
    before.trained("groat")
    before.add_point("groat", point(0, 0.0, 0.07))
    results = AccuracyResults(path, work, 0.30, reuse=True)
    assert not results.begin("groat", {"storage": "f32"})
    assert results.begin("TRL", {"storage": "f32"})
    assert results.steps_without_figures("groat") == [4, 8, 10]
    assert results.steps_without_figures("TRL") == [0, 4, 8, 10]
    start = results.figures_at_start()
    assert start is not None
    assert start["avg@4"].value == 0.07
    assert results.step_seconds("TRL") == []


def test_results_of_another_training_are_not_reused(work: TrainingWork, tmp_path: Path):
    path = tmp_path / "race.json"
    before = AccuracyResults(path, work, 0.40, reuse=False)
    before.begin("groat", {"storage": "f32"})
    before.trained("groat")
    with pytest.raises(UserError, match=r"groat trained with .*'f32'.*, and .*'int8'.* was asked for"):
        AccuracyResults(path, work, 0.40, reuse=True).begin("groat", {"storage": "int8"})
    with pytest.raises(UserError, match="other values of `work`"):
        AccuracyResults(path, replace(work, every=5), 0.40, reuse=True)


def test_records_are_told_as_they_come_and_a_failure_by_its_last_words():
    program = "import sys; print('{\"step\": 1}'); print(\"{'loss': 2}\"); sys.exit('no more')"
    told = records("TRL", [sys.executable, "-c", program])
    assert next(told) == {"step": 1}
    with pytest.raises(UserError, match=r"TRL failed \(exit code 1\). Its last words:\nno more"):
        next(told)


@pytest.mark.slow
def test_a_trial_trains_and_evaluates_and_a_second_one_with_reuse_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = ["--small", "--results", str(tmp_path), "--work", str(tmp_path)]
    time_to_accuracy.main(options)
    assert "groat: step 2" in capsys.readouterr().out
    text = (tmp_path / "time-to-accuracy-small.json").read_text()
    data = json.loads(text)
    assert data["is_finished"]
    assert data["work"]["model"] == "tiny"
    assert str(tmp_path) not in text
    side = data["sides"]["groat"]
    assert [point["steps"] for point in side["curve"]] == [0, 1, 2]
    assert side["curve"][2]["seconds"] == pytest.approx(sum(side["step_seconds"]), abs=1e-3)
    assert side["curve"][0]["figures"].keys() == {"avg@4", "pass@4", "greedy"}
    time_to_accuracy.main([*options, "--reuse", "--target", "0.9"])
    assert "groat: step" not in capsys.readouterr().out
    again = json.loads((tmp_path / "time-to-accuracy-small.json").read_text())
    assert again["sides"] == data["sides"]
    assert again["summary"]["target"] == 0.9
