"""Think tags and XML tags, strict and soft."""

from __future__ import annotations

import pytest

from groat.tasks.formats import think_format, xml_format, xml_share
from groat.types import UserError

GOOD = "<think>2 + 2 is 4</think>\nThe answer is 4."


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        (GOOD, 1.0, 1.0),
        ("  \n" + GOOD, 1.0, 1.0),
        ("Well. " + GOOD, 0.0, 1.0),
        ("<think> </think> 4", 0.0, 1.0),
        ("<think>x</think>  ", 0.0, 1.0),
        ("<think>x</think> a <think>y</think> b", 0.0, 1.0),
        ("</think>x<think>", 0.0, 0.0),
        ("<think>x", 0.0, 0.0),
        ("4", 0.0, 0.0),
    ],
)
def test_thinking_comes_first_and_apart(text: str, strict: float, soft: float):
    assert think_format()([text]) == [strict]
    assert think_format(strict=False)([text]) == [soft]


def test_a_prompt_can_open_the_thinking():
    assert think_format(opened=True)(["2 + 2</think> 4", GOOD]) == [1.0, 0.0]


XML = "<reasoning>\nx\n</reasoning>\n<answer>\n4\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "strict", "soft", "share"),
    [
        (XML, 1.0, 1.0, 1.0),
        ("So: " + XML, 0.0, 1.0, 1.0),
        (XML + "bye", 0.0, 1.0, 1.0),
        ("<reasoning>x</reasoning> and <answer>4</answer>", 0.0, 1.0, 1.0),
        ("<answer>4</answer><reasoning>x</reasoning>", 0.0, 0.0, 1.0),
        (XML + XML, 0.0, 1.0, 0.0),
        ("<answer>4</answer>", 0.0, 0.0, 0.5),
        ("<reasoning>", 0.0, 0.0, 0.25),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_tags_come_once_and_in_order(text: str, strict: float, soft: float, share: float):
    assert xml_format()([text]) == [strict]
    assert xml_format(strict=False)([text]) == [soft]
    assert xml_share()([text]) == [share]


def test_tag_names_are_checked():
    for tags in ([], "answer", ["a b"], ["<a>"]):
        with pytest.raises(UserError, match="tags must be names"):
            xml_format(tags=tags)
