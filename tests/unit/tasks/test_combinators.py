"""Sums and gates of rewards, and how recipes write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from reward_examples import a_group

from groat.tasks import Explained, Grader, load_reward
from groat.tasks.combinators import gate, weighted_sum
from groat.tasks.reward_loading import reward_functions
from groat.types import UserError


def halves(completions, **kwargs):
    return [0.5 for _ in completions]


def lengths(completions, bonus):
    return [
        Explained(len(text) + more, "its length") if text else None
        for text, more in zip(completions, bonus, strict=True)
    ]


def test_a_weighted_sum_adds_what_applies():
    reward = weighted_sum(halves, lengths, weights=[2.0, 10.0])
    values = reward(["ab", ""], bonus=[1, 1])
    assert values == [31.0, 1.0]  # 2 * 0.5 + 10 * 3; the second text: 2 * 0.5 alone
    assert values[0].why == "halves 0.5; lengths 3 (its length)"
    assert values[1].why == "halves 0.5; lengths does not apply"


def test_a_sum_of_what_does_not_apply_does_not_apply():
    assert weighted_sum(lengths, lengths)([""], bonus=[1]) == [None]


def test_a_gate_lets_through_what_meets_its_condition():
    reward = gate(halves, when=lengths, at_least=3.0, otherwise=-1.0)
    values = reward(["abc", "ab", ""], bonus=[0, 0, 0])
    assert values == [0.5, -1.0, -1.0]
    assert values[1].why == "gate closed: lengths 2 (its length)"
    assert gate(lengths, when=halves)([""], bonus=[0]) == [None]


def test_combinations_need_the_columns_of_their_parts():
    with pytest.raises(UserError, match="needs `bonus`"):
        reward_functions([gate(halves, when=lengths)], None, {"answer"})
    [reward] = reward_functions([gate(halves, when=lengths)], None, {"bonus"})
    [group] = Grader([reward]).grade([a_group("abc", "a", bonus=0)])
    assert [reward.total for reward in group.rewards] == [0.5, 0.5]


def test_recipes_nest_rewards(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def long(completions, **kwargs): return [float(len(text) > 20) for text in completions]"
    )
    inner = f'weighted_sum(numeric_answer(units=true), "{tmp_path}/mine.py:long", weights=[1, 0.5])'
    reward = load_reward(f"gate({inner}, when=think_format)")
    texts = ["<think>hm</think> Answer: 4 m", "<think></think> 4", "<think>2</think>4"]
    assert reward(texts, answer=["4"] * 3) == [1.5, 0.0, 1.0]
    assert reward.__name__ == "gate"


def test_built_in_functions_without_options_can_be_parts():
    assert load_reward("gate(answer_match, when=regex(pattern='4'))")(["4", "5"], answer=["4", "5"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("think_format(", "cannot be read"),
        ("think_format(strict=__import__('os').system('x'))", "cannot be read"),
        ("think_format(strict=1 + open('x'))", "cannot be read"),
        ("thinkformat()", "did you mean think_format"),
        ("answer_match(strict=True)", "takes no options"),
        ("think_format(stric=True)", "options of the reward think_format"),
        ("soft_overlong", "options of the reward soft_overlong"),
        ("gate(5, when=think_format)", "made of reward functions"),
        ("weighted_sum()", "needs rewards"),
        ("(" * 500 + ")" * 500, "cannot be read"),
        ("x" * 5000 + "()", "longer than"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(spec: str, message: str):
    with pytest.raises(UserError, match=message):
        load_reward(spec)
