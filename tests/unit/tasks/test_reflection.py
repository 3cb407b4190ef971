"""What is counted as second thoughts, on texts written by hand."""

from __future__ import annotations

import pytest

from groat.config.tree import REFLECTION_PHRASES, ReflectionConfig
from groat.tasks.reflection import ReflectionCounter, Reflections, reflection_metrics

COUNTER = ReflectionCounter(REFLECTION_PHRASES)


@pytest.mark.parametrize(
    ("text", "phrases", "revisions"),
    [
        ("3 + 4 = 7. Answer: 7", 0, 0),
        ("Wait, that is wrong. Let me check: 3 + 4 = 7.", 3, 0),
        ("wait wait WAIT", 3, 0),
        ("The waiter is waiting; actuality; unchecked again.", 0, 0),
        ("Hmm... let  me\tcheck, let me double-check!", 3, 0),
        ("That\u2019s wrong. Alternatively, I made a mistake.", 3, 0),
        ("Answer: 5. No. Answer: 6", 0, 1),
        ("The answer is 5. So the answer is 5", 0, 0),
        ("The answer is 5, wait, the answer is 7, no, the answer is 5.", 1, 2),
        (r"\boxed{12} and again \boxed{ 12 }, then \boxed{13}", 0, 1),
        ("<answer> 4 </answer> <answer>4</answer> <answer>9</answer>", 0, 1),
        ("answer: **8** ... answer: 8", 0, 0),
        ("Answer: Yes. Answer: yes", 0, 0),
        ("", 0, 0),
    ],
)
def test_texts_by_hand(text: str, phrases: int, revisions: int) -> None:
    assert COUNTER.count(text) == Reflections(phrases=phrases, revisions=revisions)


def test_the_longest_phrase_counts_once() -> None:
    counter = ReflectionCounter(["let me", "let me check", "let me check again"])
    assert counter.count("let me check again, let me check, let me go").phrases == 3


def test_the_word_list_is_the_users_and_its_characters_mean_themselves() -> None:
    counter = ReflectionCounter(["moment mal", "c++?", "nein"])
    assert counter.count("Moment mal! Nein. Is it c++? neinnein").phrases == 3
    assert ReflectionCounter([]).count("wait, wait").phrases == 0


def test_a_step_is_counted_by_completion() -> None:
    texts = ["wait, wait. Answer: 1. Answer: 2", "Answer: 3", "hmm", "Answer: 1. Answer: 2. Answer: 3"]
    assert reflection_metrics(COUNTER, texts) == {
        "aha_heuristic/phrases": 3 / 4,
        "aha_heuristic/share_with_phrases": 2 / 4,
        "aha_heuristic/revisions": 3 / 4,
        "aha_heuristic/share_with_revisions": 2 / 4,
    }
    assert reflection_metrics(COUNTER, []) == {}


def test_only_the_end_of_a_long_text_is_read() -> None:
    assert COUNTER.count("wait " + "x " * 5000 + "wait").phrases == 1


def test_an_empty_phrase_is_refused() -> None:
    with pytest.raises(ValueError, match="holds an empty phrase"):
        ReflectionConfig(phrases=("wait", " "))
