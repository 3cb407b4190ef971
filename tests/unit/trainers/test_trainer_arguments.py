"""What a GRPOTrainer is given as objects, and the adapter it is asked for."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
from toy_trainers import toy_trainer

from groat.config import tree
from groat.testing import toy_rows, vowel_share
from groat.trainers.arguments import dataset_rows, language_model, reward_list, tokenizer_notes
from groat.trainers.grpo import GRPOTrainer
from groat.trainers.peft import LoraConfig, lora_section
from groat.types import UserError

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Named:
    def __init__(self, name_or_path: str) -> None:
        self.name_or_path = name_or_path


def test_importing_groat_loads_no_torch_and_neither_do_its_options():
    code = (
        "import sys, groat; from groat import GRPOConfig, LoraConfig; GRPOConfig('x'); LoraConfig(r=4); "
        "assert 'torch' not in sys.modules; from groat import GRPOTrainer; assert 'torch' in sys.modules; "
        "assert 'GRPOTrainer' in dir(groat)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error():
    import groat

    with pytest.raises(AttributeError, match="no attribute 'GRPOTrainr'"):
        groat.GRPOTrainr  # noqa: B018  # pyright: ignore


@pytest.mark.parametrize("make", [LoraConfig, peft.LoraConfig])
@pytest.mark.parametrize("targets", [None, "all-linear", ALL, set(ALL)])
def test_plain_lora_on_every_layer_is_taken(make: Any, targets: Any):
    section, _ = lora_section(make(r=4, lora_alpha=12, target_modules=targets, lora_dropout=0.0, bias="none"))
    assert section == tree.LoraConfig(r=4, lora_alpha=12.0)


def test_without_peft_config_the_default_is_noted():
    section, [note] = lora_section(None)
    assert section == tree.LoraConfig(r=16, lora_alpha=32)
    assert note.startswith("no peft_config: groat trains adapters only, here of r=16, lora_alpha=32")


def test_what_is_not_read_is_noted():
    _, notes = lora_section(peft.LoraConfig(task_type="CAUSAL_LM"))
    assert notes == [
        "peft_config.target_modules is None: every linear layer is trained (PEFT picks some of them)",
        "peft_config.task_type='CAUSAL_LM': it is not read; models are causal language models",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules: down_proj, .*up_proj cannot be left out yet"),
        ({"target_modules": [*ALL, "lm_head"]}, "target_modules: lm_head cannot be trained"),
        ({"lora_dropout": 0.05}, "lora_dropout is 0.05: groat has no dropout"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_rslora": True}, "use_rslora is True: groat trains plain LoRA"),
        ({"use_dora": True}, "use_dora is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"r": 0}, "r"),
    ],
)
@pytest.mark.parametrize("make", [LoraConfig, peft.LoraConfig])
def test_other_adapters_are_refused_by_name(make: Any, options: dict[str, Any], words: str):
    if make is peft.LoraConfig and options == {"r": 0}:
        pytest.skip("PEFT says it later")
    with pytest.raises(UserError, match=words):
        lora_section(make(**options))


def test_settings_that_only_peft_has_are_refused_too():
    with pytest.raises(UserError, match=r"rank_pattern is {'q_proj': 4}"):
        lora_section(peft.LoraConfig(rank_pattern={"q_proj": 4}))
    with pytest.raises(UserError, match="peft_config is IA3Config; groat trains LoRA"):
        lora_section(peft.IA3Config())
    with pytest.raises(UserError, match="peft_config is type"):
        lora_section(LoraConfig)


def test_a_model_object_is_refused_with_its_name():
    assert language_model(Path("some/folder")).name_or_path == "some/folder"
    with pytest.raises(UserError, match=r"model is a Named; .*pass model='Qwen/Qwen3-0.6B'"):
        language_model(Named("Qwen/Qwen3-0.6B"))
    with pytest.raises(UserError, match="model is a NoneType"):
        language_model(None)


def test_only_the_models_own_tokenizer_is_taken():
    assert tokenizer_notes(None, "m") == []
    [note] = tokenizer_notes(Named("m"), "m")
    assert note.startswith("processing_class: groat reads the model's own tokenizer")
    with pytest.raises(UserError, match="processing_class is the tokenizer of 'other', the model 'm'"):
        tokenizer_notes(Named("other"), "m")


def test_reward_models_are_refused_and_names_are_looked_up():
    assert reward_list(None) == []
    assert reward_list("exact_match") == ["exact_match"]
    assert reward_list(["rewards/mine.py:good", len]) == ["rewards/mine.py:good", len]
    with pytest.raises(UserError, match="'org/reward-model', which looks like a reward model"):
        reward_list("org/reward-model")


def test_a_misspelled_reward_names_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean exact_match"):
        toy_trainer(tmp_path, reward_funcs="exact_mach")


def test_without_reward_functions_answers_are_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{**row, "answer": "7"} for row in toy_rows(4)]
    with caplog.at_level(logging.WARNING, "groat"):
        trainer = toy_trainer(tmp_path, reward_funcs=None, rows=rows)
    assert "no reward_funcs" in caplog.text
    assert trainer.config.task.reward_funcs == ("answer_match",)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (None, "train_dataset is missing"),
        ("rows.jsonl", "train_dataset is 'rows.jsonl': give the rows themselves"),
        ({"train": [], "test": []}, "train_dataset is a dict with train, test: give one of them"),
        (3, "train_dataset is a int"),
    ],
)
def test_what_is_no_dataset_is_refused(dataset: Any, words: str):
    with pytest.raises(UserError, match=words):
        dataset_rows(dataset, "train_dataset")


def test_a_row_without_prompt_names_the_dataset(tmp_path: Path):
    with pytest.raises(UserError, match=r"train_dataset, row 1 has no `prompt` column.*rename `question`"):
        toy_trainer(tmp_path, rows=[{"question": "?"}])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizers": ("adam", None)}, r"optimizers\[0\] is given"),
    ],
)
def test_arguments_of_trls_trainer_without_effect_are_refused(tmp_path: Path, arguments: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        toy_trainer(tmp_path, **arguments)


def test_notes_are_logged_once_and_together(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "groat"):
        toy_trainer(tmp_path, logging_steps=1, bf16=True)
    [record] = [record for record in caplog.records if "make no difference" in record.message]
    assert "\n- bf16=True: " in record.message
    assert "\n- logging_steps=1: " in record.message


def test_a_trainer_needs_no_options(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trainer = GRPOTrainer("some/model", vowel_share, train_dataset=toy_rows(2))
    assert trainer.config.model.name == "some/model"
    assert trainer.config.output_dir == "runs/{name}"
