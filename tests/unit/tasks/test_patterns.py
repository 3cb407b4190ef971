"""Regular expressions: found or not, and never for longer than the limit."""

from __future__ import annotations

import pytest

from groat.tasks.patterns import LONGEST_TEXT, regex
from groat.types import UserError


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"pattern": r"b+"}, [1.0, 0.0, 1.0]),
        ({"pattern": r"B+", "ignore_case": True}, [1.0, 0.0, 1.0]),
        ({"pattern": r"a.*b", "full": True}, [1.0, 0.0, 1.0]),
        ({"pattern": r"b+", "full": True}, [0.0, 0.0, 0.0]),
    ],
)
def test_a_pattern_is_found_or_matches_the_whole_text(options: dict[str, object], scores: list[float]):
    reward = regex(num_workers=1, timeout_seconds=20, **options)
    assert reward([" ab", "a", "a\nb"]) == scores
    reward.close()


def test_a_catastrophic_pattern_costs_one_text_its_time_limit():
    reward = regex(pattern=r"(a+)+$", timeout_seconds=1.0, num_workers=1)
    logged: dict[str, float] = {}
    values = reward(["a" * 60 + "!", "aaa", "x" * (LONGEST_TEXT + 1)], log_metric=logged.__setitem__)
    reward.close()
    assert values == [0.0, 1.0, 0.0]
    assert [value.why for value in values] == [
        "not decided within 1 s",
        "matches at character 0",
        f"longer than {LONGEST_TEXT} characters",
    ]
    assert logged == {"regex/undecided": 0.5}


@pytest.mark.parametrize("pattern", ["(", "a{9999999999}", 5])
def test_what_is_no_pattern_is_said_before_the_run(pattern: object):
    with pytest.raises(UserError, match="no regular expression"):
        regex(pattern=pattern)
