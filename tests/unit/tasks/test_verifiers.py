"""The built-in rewards on good, bad and hostile texts."""

from __future__ import annotations

import time

import pytest

from groat.tasks.verifiers import answer_match, correct_answer, exact_match, numeric_match, right_steps, written_steps

SOLUTION = "5 + 3 = 8\n8 - 2 = 6\nAnswer: 6"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (SOLUTION, 1.0),
        ("Answer: 6", 1.0),
        ("Answer: 6.", 1.0),
        ("Answer:6\n", 1.0),
        ("Answer: 06", 1.0),
        ("Answer: 5\nAnswer: 6", 1.0),
        ("Answer: 6\nAnswer: 5", 0.0),
        ("Answer: 6 or 7", 0.0),
        ("Answer: 6 apples", 0.0),
        ("The Answer: 6", 0.0),
        ("6", 0.0),
        ("", 0.0),
        ("Answer:", 0.0),
        ("Answer: -6", 0.0),
        ("Answer: 6e0", 0.0),
        ("Answer: \u0666", 0.0),
        ("Answer: \uff16", 0.0),
        ("Answer: \u2076", 0.0),
        ("Answer: " + "9" * 100_000, 0.0),
        ("Answer: 6" + "0" * 14 + "," + "000," * 10, 0.0),
        ("Answer: 9**9**9", 0.0),
        ("Answer: __import__('os')", 0.0),
    ],
)
def test_correct_answer_wants_the_number_alone_on_the_last_answer_line(text: str, score: float):
    assert correct_answer([text], ["6"]) == [score]
    assert correct_answer([[{"role": "assistant", "content": text}]], [6]) == [score]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (SOLUTION, 1.0),
        ("2*3=6\nAnswer: 6", 1.0),
        ("12 / 3 = 4\nAnswer: 4", 1.0),
        ("2 - 5 = -3\nAnswer: -3", 1.0),
        ("Answer: 6", 0.0),  # no step
        ("5 + 3 = 9\nAnswer: 9", 0.0),  # not true
        ("13 / 3 = 4\nAnswer: 4", 0.0),
        ("4 / 0 = 0\nAnswer: 0", 0.0),
        ("5 + 3 = 8\nAnswer: 9", 0.0),  # not the last result
        ("5 + 3 = 8\nAnswer: 8\nHello", 0.0),  # something after the answer
        ("5 + 3 = 8\nso\nAnswer: 8", 0.0),  # a line that is no step
        ("5 + 3 = 8\n\nAnswer: 8", 0.0),
        ("5 + 3 + 1 = 9\nAnswer: 9", 0.0),
        ("5 + 3 = 8", 0.0),
        ("1 + 1 = 2\n" * 21 + "Answer: 2", 0.0),  # more than 20 steps
        ("\u0665 + 3 = 8\nAnswer: 8", 0.0),
        ("9999999 + 1 = 10000000\nAnswer: 10000000", 0.0),  # more than six digits
        ("", 0.0),
    ],
)
def test_written_steps_wants_true_steps_then_the_last_result_and_nothing_else(text: str, score: float):
    assert written_steps([text]) == [score]


def test_written_steps_earn_nothing_where_a_problem_takes_another_number_of_steps():
    text = "5 + 3 = 8\n8 - 2 = 6\nAnswer: 6"
    assert written_steps([text, text, text], num_steps=[1, 2, 3]) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5 + 3 = 8\n8 - 2 = 6\nAnswer: 6", 1.0),
        ("5 + 3 = 8\n8 - 2 = 6\nAnswer: 7", 1.0),  # the answer is another reward's business
        ("5 + 3 = 8\nAnswer: 8", 1 / 2),
        ("5 + 3 = 8\n8 - 3 = 5\nAnswer: 5", 1 / 2),
        ("5 + 2 = 7\n8 - 2 = 6\nAnswer: 6", 1 / 2),  # the second is right
        ("5 + 3 = 9\n9 - 2 = 7\nAnswer: 7", 1 / 2),  # both have the right sign and second number: half each
        ("8 - 2 = 6\n5 + 3 = 8\nAnswer: 8", 0.0),  # each in its place
        ("5 + 3 = 8\n8 - 2 = 6\n6 + 0 = 6\nAnswer: 6", 2 / 3),  # an extra step counts against it
        ("", 0.0),
    ],
)
def test_right_steps_are_counted_place_by_place_and_half_right_ones_half(text: str, share: float):
    assert right_steps([text], solution=["5 + 3 = 8\n8 - 2 = 6\nAnswer: 6"]) == [pytest.approx(share)]


def test_exact_match_ignores_only_blanks_around_the_text():
    assert exact_match([" Paris\n", "paris", "Paris."], ["Paris"] * 3) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("so it is 1,234.50", "1234.5", 1.0),
        ("3 apples and 4 pears", 4, 1.0),
        ("4 apples and 3 pears", 4, 0.0),
        ("it fell to -3.", "-3", 1.0),
        ("10-3", "3", 1.0),
        ("one half", "0.5", 0.0),
        ("18", "6 * 3 = 18\n#### 18", 1.0),
        ("1.2.3", "3", 0.0),
        ("7", "no number", 0.0),
        ("\u0667", "7", 0.0),
    ],
)
def test_numeric_match_compares_the_last_numbers(text: str, answer: object, score: float):
    assert numeric_match([text], [answer]) == [score]


def test_answer_match_compares_numbers_only_where_the_answer_is_one():
    texts = ["Paris", "the year 2024", "it is 18", "it is 18"]
    assert answer_match(texts, ["Paris", "Paris 2024", "18", "6 * 3 = 18\n#### 18"]) == [1.0, 0.0, 1.0, 1.0]


def test_a_row_without_an_answer_is_not_applicable():
    assert correct_answer(["Answer: 6", "Answer: 6"], [None, "6"]) == [None, 1.0]
    assert exact_match(["None"], [None]) == [None]


HOSTILE = {
    "digits": "9" * 1_000_000,
    "numbers": "1 " * 500_000,
    "commas": "1," * 500_000,
    "dots": "1." * 500_000,
    "minus": "-" * 1_000_000,
    "answers": "Answer: " * 125_000,
    "answer lines": "Answer: 6\n" * 100_000,
    "steps": "1 + 1 = 2\n" * 100_000,
    "almost a step": "1" + " " * 1_000_000 + "+ 1 = 2\nAnswer: 2",
    "lines": "\n" * 1_000_000,
    "boxes": "\\boxed{" * 140_000,
    "unicode digits": "\u0663" * 500_000,
    "power tower": "9**" * 300_000 + "9",
    "nul": "\0" * 1_000_000,
    "lone surrogates": "\ud800" * 500_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_anything_is_judged_at_once(name: str):
    started = time.perf_counter()
    for function in (correct_answer, exact_match, numeric_match, answer_match):
        function([HOSTILE[name]], ["6"])
        function(["Answer: 6"], [HOSTILE[name]])
    assert written_steps([HOSTILE[name]]) == [0.0]
    assert time.perf_counter() - started < 0.5
