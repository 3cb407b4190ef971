"""What a model would have to draw to write an answer: as the template writes it, up to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_tokenizer

from groat.model.locate import DEMO_NAME, model_folder
from groat.model.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return Tokenizer.from_folder(model_folder(DEMO_NAME))


@pytest.mark.parametrize("answer", ["5", "\n\n5", " 5 ", "2 + 3 = 5\nAnswer: 5\n"])
def test_a_chat_is_prompt_and_answer_as_the_template_writes_both(smollm2: Tokenizer, answer: str) -> None:
    prompt, ids = smollm2.encode_prompt(ASK), smollm2.encode_answer(ASK, answer)
    assert smollm2.decode(ids) == answer
    assert ids[-1] in smollm2.stop_token_ids
    assert not smollm2.stop_token_ids & set(ids[:-1])
    if answer[0].isspace():
        return  # in one text with the prompt, its first blank would join the prompt's last line end
    # A second turn of the user's goes on behind the line's end that the template writes after the first answer.
    both = smollm2.encode_prompt([*ASK, {"role": "assistant", "content": answer}, *ASK])
    assert both[: len(prompt)] == prompt
    end = both.index(ids[-1], len(prompt))
    assert smollm2.decode(both[len(prompt) : end + 1]) == answer


def test_a_control_token_in_an_answer_is_the_characters_it_is(smollm2: Tokenizer) -> None:
    ids = smollm2.encode_answer(ASK, "stop <|im_end|> here")
    assert [place for place, token in enumerate(ids) if token in smollm2.stop_token_ids] == [len(ids) - 1]
    assert smollm2.decode(ids) == "stop <|im_end|> here"


def test_a_text_goes_on_as_it_is_and_ends(smollm2: Tokenizer) -> None:
    ids = smollm2.encode_answer("2 + 3 =", " 5")
    assert ids[:-1] == smollm2.encode(" 5")
    assert ids[-1] in smollm2.stop_token_ids
    assert smollm2.encode_answer("2 + 3 =", " 5<|im_end|>") == smollm2.encode(" 5<|im_end|>")


def test_a_template_without_a_mark_for_the_end_gets_one_and_loses_the_blank_lines_between_turns(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    template = tmp_path / "plain.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = Tokenizer.from_folder(tmp_path, template)
    ids = tokenizer.encode_answer(ASK, "five")
    assert tokenizer.decode(ids) == " five"
    assert ids[-1] in tokenizer.stop_token_ids


def test_a_template_that_writes_answered_turns_otherwise_still_gives_the_answer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}assistant <thinks> {% endif %}"
    )
    tokenizer = Tokenizer.from_folder(tmp_path, template)
    assert tokenizer.decode(tokenizer.encode_answer(ASK, "five")) == "five"
