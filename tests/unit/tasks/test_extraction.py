r"""Answers are found where they are marked: boxes, tags, hashes, answer lines."""

from __future__ import annotations

import pytest

from groat.tasks.extraction import boxes, extracted_answer, last_boxed, last_tag, marked_answer, reference_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} no, \boxed{4}", "4"),
        (r"\boxed{a\boxed{b}c}", "b"),
        (r"\boxed{ {{x}} }", "{{x}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 8$", "8"),
        (r"\boxed{1} and then \boxed{2", "1"),
        (r"} { \boxed{9} }", "9"),
        (r"\boxed{}", ""),
        (r"\boxed{", None),
        (r"\boxedx{5}", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_wins(text: str, content: str | None):
    assert last_boxed(text) == content


def test_boxes_say_where_they_are():
    text = r"so \boxed{1}, \boxed{{2}}"
    assert [text[box.start : box.end] for box in boxes(text)] == [r"\boxed{1}", r"\boxed{{2}}"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 6", "6"),
        ("**Answer:** 6", "6"),
        ("The final answer is 12.", "12"),
        ("so the answer is $x + 1$. I hope so.", "$x + 1$"),
        ("Answer: 3.5. Done", "3.5"),
        ("Answer: 5!", "5!"),
        ("Answer: 5\nAnswer: 6", "6"),
        ("6 + 6\n#### 1,200", "1,200"),
        ("<answer>\n 7 \n</answer>", "7"),
        ("<answer>7</answer> <answer>8", "7"),
        (r"Answer: 3 and \boxed{4}", "4"),
        (r"<think>\boxed{3}</think> Answer: 4", "4"),
        (r"<think>\boxed{3}</think> 4", None),
        ("My answer", None),
    ],
)
def test_marked_answers_are_found_in_the_order_box_tag_hash_line(text: str, answer: str | None):
    assert marked_answer(text) == answer


def test_each_way_looks_only_for_its_own_mark():
    text = "Answer: 1\n#### 2\n<answer>3</answer>"
    assert [extracted_answer(text, way) for way in ("line", "hash", "tag", "boxed")] == ["1", "2", "3", None]
    assert extracted_answer(" all of it ", "text") == "all of it"
    assert extracted_answer(" all of it ", "auto") == "all of it"


def test_the_last_closed_tag_counts():
    assert last_tag("<a>1</a><a>2</a>", "a") == "2"
    assert last_tag("</a><a>", "a") is None


@pytest.mark.parametrize(
    ("column", "answer"),
    [("6 * 2 = 12\n#### 12", "12"), (r"so $\boxed{\frac12}$.", r"\frac12"), (" 5 ", "5"), (5, "5")],
)
def test_references_are_read_as_gsm8k_and_math_write_them(column: object, answer: str):
    assert reference_answer(column) == answer
