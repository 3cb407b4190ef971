import re

import pytest
from reward_examples import a_grader, a_group

from groat.tasks import load_reward, task_from_rows
from groat.tasks.code_reward import CodeReward, code_tests_reward
from groat.tasks.code_tests import code_tests
from groat.tasks.explained import why_of
from groat.tasks.sandbox import Limits
from groat.types import UserError

TESTS = ["assert double(2) == 4", "assert double(0) == 0", {"call": "double", "args": [-1], "expected": -2}]


def code(source: str) -> str:
    return f"I think so.\n```python\n{source}\n```\nThat is it."


@pytest.fixture(scope="module")
def share(sandbox):
    reward = CodeReward(limits=Limits(seconds=2.0))
    yield reward
    reward.close()


@pytest.fixture(scope="module")
def all_or_nothing(sandbox):
    reward = CodeReward(all_or_nothing=True, limits=Limits(seconds=2.0))
    yield reward
    reward.close()


COMPLETIONS = [
    code("def double(x): return 2 * x"),
    code("def double(x): return x * x"),  # right for 2 and 0
    code("def double(x): return 7"),
    "double is easy",
    code("def double(x):\n    while x: pass\n    return 0"),
]


def test_the_share_of_tests_that_hold(share):
    assert share(COMPLETIONS, tests=[TESTS] * 5) == [1.0, 2 / 3, 0.0, 0.0, 0.0]


def test_all_or_nothing(all_or_nothing):
    assert all_or_nothing(COMPLETIONS[:4], tests=[TESTS] * 4) == [1.0, 0.0, 0.0, 0.0]


def test_each_completion_says_why(share):
    assert [why_of(score) for score in share(COMPLETIONS, tests=[TESTS] * 5)] == [
        "3 of 3 tests hold",
        "2 of 3 tests hold; test 3: returned 1",
        "0 of 3 tests hold; test 1: not so; test 2: not so; test 3: returned 7",
        "no block of code",
        "0 of 3 tests hold; test 1: out of time; test 2: out of time; test 3: out of time",
    ]


def test_why_has_no_control_characters(share):
    source = code("def double(x): raise ValueError('\\x1b[31m\\ud800\\n')")
    [why] = map(why_of, share([source], tests=[TESTS]))
    assert why is not None
    assert why.startswith("0 of 3 tests hold; test 1: ValueError: ?[31m??;")


def test_each_completion_is_graded_by_its_own_tests(share):
    completions = [code("print(int(input()) + 1)"), code("def f(): return 1"), code("x = 1"), code("print(3)")]
    tests = [[{"stdin": "1", "stdout": "2"}], ["assert f() == 1"], None, [{"stdout": "3"}, "assert f() == 1"]]
    assert share(completions, tests=tests) == [1.0, 1.0, None, 0.5]


def test_setup_column(share):
    tests, setups = ["assert near(f(1), 1)"], ["from math import isclose as near", None]
    assert share([code("def f(x): return x")] * 2, tests=[tests] * 2, test_setup=setups) == [1.0, 0.0]


def test_by_name_with_rows(sandbox):
    rows = [{"prompt": f"Write double. {number}", "tests": TESTS} for number in range(3)]
    task = task_from_rows(rows, rows[:1], ["code_tests", "all_code_tests"], name="doubles")
    assert [reward.name for reward in task.rewards] == ["code_tests", "all_code_tests"]
    assert task.is_correct(task.held_out[0], COMPLETIONS[0])
    assert not task.is_correct(task.held_out[0], COMPLETIONS[1])


def test_names_are_suggested():
    with pytest.raises(UserError, match="did you mean code_tests"):
        load_reward("code_test")


def test_programs_that_hang_do_not_run_into_the_time_limit_of_rewards(share):
    """Eight endless programs take 2 s each, two at a time or so; the grader's own limit is far below."""
    group = a_group(*[code("while True: pass")] * 8, tests=TESTS)
    [graded] = a_grader(share, timeout_seconds=0.1).grade([group])
    assert [reward.total for reward in graded.rewards] == [0.0] * 8


def test_time_is_for_all_tests_together(sandbox):
    reward = CodeReward(limits=Limits(seconds=1.0))
    sleepy = code("import time\ntime.sleep(0.6)\nprint(1)")
    scores = reward([sleepy], tests=[[{"stdout": "1"}] * 3])
    reward.close()
    assert scores == [1 / 3]
    assert [why_of(score) for score in scores] == ["1 of 3 tests hold; test 2: out of time; test 3: out of time"]


def test_the_clock_comes_before_the_limit_on_cpu_time():
    # A program that spins for 1.5 s, or 4 s, by the clock has had no more CPU time than that, and may have 3 s, or 5 s.
    assert Limits(seconds=1.5).resolved()["cpu_seconds"] == 3
    assert Limits().resolved()["cpu_seconds"] == 5
    assert Limits(seconds=1.5, cpu_seconds=1).resolved()["cpu_seconds"] == 1


@pytest.mark.parametrize("tests", [TESTS, [{"stdout": "1"}]], ids=["functions", "script"])
def test_the_reason_of_a_program_that_never_ends_is_the_clock(sandbox, tests):
    reward = code_tests_reward(seconds=1.0)
    endless = [code("def double(x):\n    while True: pass\nwhile True: pass")] * 6
    scores = reward(endless, tests=[tests] * 6)
    reward.close()
    total = len(tests)
    reasons = "; ".join(f"test {place}: out of time" for place in range(1, total + 1))
    assert [why_of(score) for score in scores] == [f"0 of {total} tests hold; {reasons}"] * 6


@pytest.mark.parametrize(
    "tests",
    [
        [],
        "assert f() == 1",
        7,
        [7],
        [None],
        [{"stdin": "1"}],
        [{"stdin": 1, "stdout": "1"}],
        [{"stdout": "1", "timeout": 3}],
        [{"call": "f", "args": [1]}],
        [{"call": "f", "expected": object()}],
        [{"call": "f", "expected": 1, "arguments": []}],
    ],
)
def test_what_is_no_test_is_an_error_with_the_forms_there_are(tests: object):
    with pytest.raises(UserError, match=re.escape("test")):
        code_tests(tests)
