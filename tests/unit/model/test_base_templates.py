"""Templates for base models, chosen by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tokenizer

from groat.config.tree import ModelConfig
from groat.model.locate import DEMO_NAME, model_folder
from groat.model.tokenizer import read_tokenizer
from groat.types import UserError

ASK = {"role": "user", "content": "2 + 3?"}


def test_r1_zero_asks_for_thinking_and_an_answer_in_tags() -> None:
    tokenizer = read_tokenizer(ModelConfig(chat_template="r1_zero"), model_folder(DEMO_NAME))
    rendered = tokenizer.render([ASK])
    opening, _, rest = rendered.partition("\n\n")
    assert rest == "User: 2 + 3?\n\nAssistant:"
    assert all(tag in opening for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    assert "<|im_start|>" not in rendered


def test_a_system_turn_takes_the_place_of_its_opening() -> None:
    tokenizer = read_tokenizer(ModelConfig(chat_template="r1_zero"), model_folder(DEMO_NAME))
    rendered = tokenizer.render([{"role": "system", "content": "Be brief."}, ASK])
    assert rendered == "Be brief.\n\nUser: 2 + 3?\n\nAssistant:"


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("plain", "User: 2 + 3?\n\nAssistant:"),
        ("chatml", "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_the_other_templates_have_names_too(tmp_path: Path, name: str, rendered: str) -> None:
    write_tokenizer(tmp_path)
    assert read_tokenizer(ModelConfig(chat_template=name), tmp_path).render([ASK]) == rendered


def test_any_other_name_is_a_file(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="r1-zero"):
        read_tokenizer(ModelConfig(chat_template="r1-zero"), tmp_path)
