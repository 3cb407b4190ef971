"""The trainers besides GRPO's: TRL's options and arguments, followed or refused by name; and that they train."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from groat.config.algorithms import OnlineDPOAlgorithmConfig, PPOAlgorithmConfig, RLOOAlgorithmConfig
from groat.config.tree import LoraConfig, RunConfig
from groat.testing import tiny_model, toy_rows, vowel_share
from groat.trainers import algorithm_options as algorithm_module
from groat.trainers import notes as notes_module
from groat.trainers import steps as steps_module
from groat.trainers import trainer as trainer_module
from groat.trainers import translate as translate_module
from groat.trainers.config import OnlineDPOConfig, PPOConfig, RLOOConfig, RunOptions
from groat.trainers.online_dpo import OnlineDPOTrainer
from groat.trainers.peft import LoraConfig as PeftLora
from groat.trainers.ppo import PPOTrainer
from groat.trainers.rloo import RLOOTrainer
from groat.trainers.translate import Data, translate
from groat.types import UserError

DATA = Data(task_name="python", num_rows=100, num_eval_rows=None, reward_names=["good"])
ALL = pytest.mark.parametrize("options", [RLOOConfig, OnlineDPOConfig, PPOConfig])


def config(args: RunOptions) -> RunConfig:
    return translate(args, "m", LoraConfig(), DATA).config


def test_rloos_defaults_are_trls() -> None:
    # 8 completions a step in groups of 2: 4 prompts a step, so 3 epochs of 100 rows are 75 steps.
    found = config(RLOOConfig())
    assert found.algorithm == RLOOAlgorithmConfig(beta=0.05)
    assert (found.sampling.num_generations, found.sampling.max_completion_length) == (2, 512)
    assert found.training.max_steps == 75
    assert translate(RLOOConfig(), "m", LoraConfig(), DATA).notes == ()


def test_online_dpos_defaults_are_trls() -> None:
    """per_device_train_batch_size counts prompts: 8 a step, 16 completions; 3 epochs of 100 rows are 38 steps."""
    found = config(OnlineDPOConfig())
    assert found.algorithm == OnlineDPOAlgorithmConfig(beta=0.1)
    assert (found.sampling.num_generations, found.sampling.max_completion_length) == (2, 64)
    assert (found.sampling.temperature, found.training.learning_rate) == (0.9, 5e-7)
    assert (found.training.generation_batch_size, found.prompts_per_step) == (16, 8)
    assert found.training.max_steps == 38
    assert translate(OnlineDPOConfig(), "m", LoraConfig(), DATA).notes == ()


def test_ppos_defaults_are_trls() -> None:
    """8 completions a step, one to a prompt: 3 epochs of 100 rows are 38 steps, of 4 updates each."""
    found = config(PPOConfig())
    assert found.algorithm == PPOAlgorithmConfig(
        num_ppo_epochs=4,
        num_mini_batches=1,
        kl_coef=0.05,
        kl_estimator="k1",
        cliprange=0.2,
        cliprange_value=0.2,
        vf_coef=0.1,
        gamma=1.0,
        lam=0.95,
    )
    assert (found.sampling.num_generations, found.sampling.max_completion_length) == (1, 53)
    assert (found.sampling.temperature, found.training.learning_rate) == (0.7, 3e-6)
    assert (found.training.generation_batch_size, found.prompts_per_step) == (8, 8)
    assert found.training.max_steps == 38
    assert translate(PPOConfig(), "m", LoraConfig(), DATA).notes == ()


def test_ppo_counts_episodes_as_trl_does() -> None:
    """100 completions in steps of 4 x 8 are 4 steps; max_steps counts steps, for TRL's global_step does."""
    args = PPOConfig(total_episodes=100, gradient_accumulation_steps=4, num_mini_batches=2, save_steps=2)
    assert (config(args).training.max_steps, config(args).training.save_steps) == (4, 2)
    assert config(PPOConfig(total_episodes=100, max_steps=7)).training.max_steps == 7


def test_ppos_options_reach_its_section() -> None:
    options: dict[str, Any] = {
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "kl_coef": 0.1,
        "kl_estimator": "k3",
        "cliprange": 0.1,
        "cliprange_value": 0.3,
        "vf_coef": 0.5,
        "gamma": 0.99,
        "lam": 0.9,
        "whiten_rewards": True,
        "whiten_advantages": False,
        "missing_eos_penalty": 1.0,
        "value_lora_r": 4,
        "value_learning_rate": 1e-3,
    }
    assert config(PPOConfig(**options)).algorithm == PPOAlgorithmConfig(**options)


def test_options_reach_the_algorithms_sections() -> None:
    options: dict[str, Any] = {
        "beta": 0.2,
        "num_iterations": 3,
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "normalize_advantages": True,
        "reward_clip_range": (-1, 1),
        "mask_truncated_completions": True,
    }
    assert config(RLOOConfig(**options)).algorithm == RLOOAlgorithmConfig(**options)
    dpo = OnlineDPOConfig(beta=[0.3], loss_type="ipo", missing_eos_penalty=1.0, max_new_tokens=9, num_generations=4)
    assert config(dpo).algorithm == OnlineDPOAlgorithmConfig(beta=0.3, loss_type="ipo", missing_eos_penalty=1.0)
    assert config(dpo).training.generation_batch_size == 32
    assert config(dpo).sampling.max_completion_length == 9


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (RLOOConfig(reward_clip_range=(1, -1)), r"^RLOOConfig: algorithm.reward_clip_range must rise"),
        (RLOOConfig(sync_ref_model=True), "^RLOOConfig: sync_ref_model is True: the reference policy is always"),
        (RLOOConfig(num_generations=3), r"^RLOOConfig: per_device_train_batch_size .* must be a multiple"),
        (OnlineDPOConfig(beta=[0.1, 0.2]), r"^OnlineDPOConfig: beta is \[0.1, 0.2\]: groat has one beta"),
        (OnlineDPOConfig(loss_type="hinge"), "^OnlineDPOConfig: algorithm.loss_type must be one of 'sigmoid' or 'ipo'"),
        (OnlineDPOConfig(num_iterations=2), "^OnlineDPOConfig: num_iterations is 2: every pair makes one update"),
        (OnlineDPOConfig(reward_model_path="m"), "^OnlineDPOConfig: reward_model_path is 'm': groat runs functions"),
        (
            PPOConfig(num_mini_batches=3),
            r"^PPOConfig: a step learns from 8 completions .* multiple of algorithm.num_min",
        ),
        (PPOConfig(kl_estimator="k2"), "^PPOConfig: algorithm.kl_estimator must be one of 'k1' or 'k3', got 'k2'"),
        (PPOConfig(num_iterations=2), "^PPOConfig: num_iterations is 2: num_ppo_epochs and num_mini_batches say"),
        (PPOConfig(reward_model_path="m"), "^PPOConfig: reward_model_path is 'm': groat runs functions only"),
        (PPOConfig(sft_model_path="m"), "^PPOConfig: sft_model_path is 'm': give the trainer the model"),
        (PPOConfig(stop_token_id=3), "^PPOConfig: stop_token_id is 3: completions end at the model's own stop tokens"),
        (PPOConfig(ref_adapter_name="r"), "^PPOConfig: ref_adapter_name is 'r': the reference policy is the model"),
        (PPOConfig(total_episodes=0), "^PPOConfig: total_episodes must be a whole number of at least 1, got 0"),
        (OnlineDPOConfig(max_new_tokens=0), "sampling.max_completion_length must be at least 1"),
    ],
)
def test_what_groat_cannot_follow_is_refused_by_name(args: RunOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(args)


def test_options_of_other_algorithms_are_unknown() -> None:
    with pytest.raises(TypeError, match="RLOOConfig has no option delta"):
        RLOOConfig(delta=1)  # pyright: ignore
    with pytest.raises(TypeError, match=r"OnlineDPOConfig has no option max_new_token; did you mean max_new_tokens\?"):
        OnlineDPOConfig(max_new_token=1)  # pyright: ignore


@ALL
def test_every_option_takes_effect_or_says_why_not(options: type[RunOptions]) -> None:
    modules = (translate_module, steps_module, notes_module, trainer_module, algorithm_module)
    read = "".join(map(inspect.getsource, modules)) + f'"{options.length_option}"'
    silent = [option.name for option in dataclasses.fields(options) if not option.metadata]
    assert [name for name in silent if not re.search(rf'args\.{name}\b|"{name}"', read)] == []


@pytest.mark.parametrize(
    ("trainer", "arguments", "words"),
    [
        (
            RLOOTrainer,
            {"quantization_config": 1},
            "quantization_config is given, but groat's RLOOTrainer does not have",
        ),
        (
            OnlineDPOTrainer,
            {"ref_model": 1},
            "ref_model is given.*: the reference policy is the model without its adap",
        ),
        (OnlineDPOTrainer, {"data_collator": 1}, "data_collator is given"),
        (OnlineDPOTrainer, {"compute_metrics": 1}, "compute_metrics is given"),
        (OnlineDPOTrainer, {"preprocess_logits_for_metrics": 1}, "preprocess_logits_for_metrics is given"),
        (OnlineDPOTrainer, {"optimizers": (1, None)}, r"optimizers\[0\] is given"),
        (
            PPOTrainer,
            {"reward_model": 1},
            "reward_model is given, but groat's PPOTrainer does not .*: give reward_funcs",
        ),
        (PPOTrainer, {"value_model": 1}, "value_model is given.*: it is made of the model's own weights"),
        (PPOTrainer, {"ref_model": 1}, "ref_model is given"),
        (PPOTrainer, {"data_collator": 1}, "data_collator is given"),
        (PPOTrainer, {"optimizers": (1, None)}, r"optimizers\[0\] is given"),
        (OnlineDPOTrainer, {"judge": max, "reward_funcs": vowel_share}, "judge and reward_funcs are given"),
    ],
)
def test_arguments_that_groat_does_not_have_are_refused(trainer: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trainer(model="m", train_dataset=toy_rows(), **arguments)


SMALL: dict[str, Any] = {
    "learning_rate": 3e-2,
    "lr_scheduler_type": "constant",
    "max_steps": 8,
    "disable_tqdm": True,
    "seed": 1,
}


def test_rloo_trains(tmp_path: Path) -> None:
    trainer = RLOOTrainer(
        model=str(tiny_model(tmp_path / "model", seed=1)),
        reward_funcs=vowel_share,
        args=RLOOConfig(
            str(tmp_path / "run"),
            beta=0.01,
            num_generations=8,
            per_device_train_batch_size=32,
            max_completion_length=8,
            **SMALL | {"max_steps": 16},
        ),
        train_dataset=toy_rows(),
        peft_config=PeftLora(r=8, lora_alpha=16),
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history]
    assert rewards[-1] > rewards[0] + 0.2
    assert all(entry["kl"] != 0 for entry in trainer.state.log_history[1:])


def test_ppo_trains_and_its_values_learn_what_to_expect(tmp_path: Path) -> None:
    trainer = PPOTrainer(
        model=str(tiny_model(tmp_path / "model", seed=1)),
        reward_funcs=vowel_share,
        args=PPOConfig(
            str(tmp_path / "run"),
            kl_coef=0.001,
            lam=1.0,
            num_ppo_epochs=2,
            num_mini_batches=2,
            per_device_train_batch_size=32,
            response_length=8,
            temperature=1.0,
            **SMALL | {"max_steps": 16, "learning_rate": 1e-2},
        ),
        train_dataset=toy_rows(),
        peft_config=PeftLora(r=8, lora_alpha=16),
    )
    output = trainer.train()
    log = trainer.state.log_history
    # Steps are counted as in TRL, whatever updates they make.
    assert (output.global_step, [entry["step"] for entry in log]) == (16, list(range(1, 17)))
    assert log[-1]["reward"] > log[0]["reward"] + 0.2
    assert log[0]["val/mean"] == log[0]["val/explained_variance"] == 0
    # They lag behind rewards that rise.
    assert 0.2 < log[-1]["val/mean"] < log[-1]["reward"]


def more_vowels(prompts: list[Any], completions: list[list[Any]]) -> list[int]:
    """A judge that prefers the answer with the larger share of vowels; for equal ones it cannot tell."""
    shares = [vowel_share(pair) for pair in completions]
    return [-1 if first == second else int(second > first) for first, second in shares]


@pytest.mark.parametrize("way", [{"reward_funcs": vowel_share}, {"judge": more_vowels}], ids=["rewards", "judge"])
def test_online_dpo_trains(tmp_path: Path, way: dict[str, Any]) -> None:
    trainer = OnlineDPOTrainer(
        model=str(tiny_model(tmp_path / "model", seed=1)),
        args=OnlineDPOConfig(
            str(tmp_path / "run"), num_generations=4, per_device_train_batch_size=8, max_new_tokens=8, **SMALL
        ),
        train_dataset=toy_rows(),
        peft_config=PeftLora(r=8, lora_alpha=16),
        **way,
    )
    trainer.train()
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert max(margins[1:]) > 0.05
    if "judge" in way:
        # Of every comparison one answer has the point, or both have half of it.
        assert [entry["rewards/win_rate/mean"] for entry in trainer.state.log_history] == pytest.approx([0.5] * 8)


def test_online_dpo_with_a_judge_reports_win_rates_on_held_out_rows(tmp_path: Path) -> None:
    trainer = OnlineDPOTrainer(
        model=str(tiny_model(tmp_path / "model", seed=1)),
        args=OnlineDPOConfig(
            str(tmp_path / "run"),
            num_generations=4,
            per_device_train_batch_size=8,
            max_new_tokens=8,
            eval_strategy="steps",
            eval_steps=8,
            **SMALL,
        ),
        train_dataset=toy_rows(),
        eval_dataset=toy_rows(3),
        peft_config=PeftLora(r=8, lora_alpha=16),
        judge=more_vowels,
    )
    trainer.train()
    rates = [entry["eval_win_rate"] for entry in trainer.state.log_history if "eval_win_rate" in entry]
    assert rates[0] == 0.5
    assert len(rates) == 2
    assert all(rate in (0, 1 / 6, 2 / 6, 0.5, 4 / 6, 5 / 6, 1) for rate in map(pytest.approx, rates))
