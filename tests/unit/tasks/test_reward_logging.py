"""What reward functions log with log_metric and log_extra."""

from __future__ import annotations

import numpy as np
import pytest
from reward_examples import a_grader, a_group, returning

from groat.tasks import Grader, RewardError
from groat.types import UserError


def test_logged_metrics_are_averaged_and_columns_are_kept_for_one_step():
    def reward(completions, log_metric, log_extra):
        log_metric("length", 2)
        log_metric("length", np.float32(4))
        log_extra("words", [text.upper() for text in completions])
        return [1.0, 1.0]

    grader = a_grader(reward)
    grader.grade([a_group("a", "b")])
    assert grader.metrics == {"length": 3.0}
    assert grader.extras == {"words": ["A", "B"]}
    grader.grade([])
    assert grader.metrics == {}
    assert grader.extras == {}


def test_a_logged_column_of_the_wrong_length_is_an_error():
    def reward(completions, log_extra):
        log_extra("words", ["one"])
        return [1.0, 1.0]

    with pytest.raises(RewardError, match="log_extra got 1 values of 'words' for 2 completions"):
        a_grader(reward).grade([a_group("a", "b")])


def test_a_grader_wants_functions_with_names_that_differ():
    with pytest.raises(UserError, match="at least one function"):
        Grader([])
    with pytest.raises(UserError, match="names that differ"):
        a_grader(returning([1.0]), returning([2.0]))
