"""A reward function that raises, ends the process or hangs is a named error, and nothing is lost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from reward_examples import a_grader, a_group, returning

from groat.tasks import RewardError


def test_an_exception_is_told_with_its_last_line_and_chained():
    def reward(completions):
        return [1 / 0]

    with pytest.raises(
        RewardError, match=r"raised ZeroDivisionError: division by zero \(test_reward_mistakes.py"
    ) as caught:
        a_grader(reward).grade([a_group("a", name="sum-1")])
    assert "problem sum-1" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "ending", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), MemoryError()]
)
def test_ending_the_process_from_inside_is_an_error_of_the_function(ending: BaseException):
    def reward(completions):
        raise ending

    async def reward_too(completions):
        raise ending

    for function in (reward, reward_too):
        with pytest.raises(RewardError, match=f"{function.__name__} raised"):
            a_grader(function).grade([a_group("a")])


def test_sys_exit_is_an_error_of_the_function():
    def reward(completions):
        sys.exit("bye")

    with pytest.raises(RewardError, match="raised SystemExit: bye"):
        a_grader(reward).grade([a_group("a")])


def test_an_exception_that_cannot_be_shown_is_still_told():
    class RudeError(Exception):
        def __str__(self):
            raise RuntimeError

    def reward(completions):
        raise RudeError

    with pytest.raises(RewardError, match="reward function reward raised"):
        a_grader(reward).grade([a_group("a")])


def test_a_value_that_cannot_be_shown_is_still_told():
    class Rude:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(RewardError, match=r"\(Rude\); it must return a list"):
        a_grader(returning(Rude())).grade([a_group("a")])


def test_a_function_that_needs_a_signal_is_told_about_math_verify():
    def reward(completions):
        raise ValueError("signal only works in main thread of the main interpreter")

    with pytest.raises(RewardError, match="parsing_timeout=None and timeout_seconds=None"):
        a_grader(reward).grade([a_group("a")])


def test_a_hanging_function_is_named_and_the_grader_can_be_used_again():
    release = threading.Event()
    hang = True

    def reward(completions):
        if hang:
            release.wait(20)
        return [1.0]

    grader = a_grader(reward, timeout_seconds=0.2)
    started = time.perf_counter()
    with pytest.raises(RewardError, match=r"did not return within 0.2 s; a thread cannot be stopped"):
        grader.grade([a_group("a")])
    assert time.perf_counter() - started < 2
    hang = False
    assert grader.grade([a_group("a")])[0].rewards[0].total == 1.0
    assert grader.num_errors == {"reward": 1}
    release.set()


def test_what_a_late_function_logs_does_not_reach_the_next_step():
    release, done = threading.Event(), threading.Event()

    def reward(completions, log_metric):
        if not release.is_set():
            release.wait(20)
            log_metric("late", 1.0)
            done.set()
        return [1.0]

    grader = a_grader(reward, timeout_seconds=0.1)
    with pytest.raises(RewardError):
        grader.grade([a_group("a")])
    release.set()
    assert done.wait(5)
    grader.grade([a_group("a")])
    assert grader.metrics == {}


def test_the_next_hundred_calls_leave_one_thread():
    grader = a_grader(returning([1.0]))
    before = threading.active_count()
    for _ in range(100):
        grader.grade([a_group("a")])
    assert threading.active_count() == before + 1
    grader.close()
    deadline = time.perf_counter() + 5
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_connection_bound_to_its_thread_can_be_kept_between_calls():
    connections = []

    def reward(completions):
        if not connections:
            connections.append(sqlite3.connect(":memory:"))
        return [float(value) for (value,) in connections[0].execute("select 1")]

    grader = a_grader(reward)
    assert [grader.grade([a_group("a")])[0].rewards[0].total for _ in range(3)] == [1.0] * 3


def test_a_process_can_end_while_a_reward_function_hangs():
    code = """
import time
from groat.tasks import Grader, RewardError, RewardFunction
from groat.types import Problem
from groat.tasks.reward_arguments import Answers
grader = Grader([RewardFunction(name="hangs", function=lambda completions: time.sleep(60))], timeout_seconds=0.1)
try:
    grader.values(Answers(problems=[Problem(id="p", prompt="q")], texts=["a"], token_ids=[()], turns=[()]))
except RewardError:
    print("told")
"""
    ended = subprocess.run([sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=True)
    assert ended.stdout == "told\n"
