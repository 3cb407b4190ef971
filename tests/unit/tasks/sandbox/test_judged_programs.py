"""Verdicts come from outside of the program: what it does in its own process changes nothing but its answers."""

import pytest

from groat.tasks.code_tests import code_tests, failures
from groat.tasks.sandbox import Limits, Sandbox

LIMITS = Limits(seconds=30.0, cpu_seconds=30)
SHORT = Limits(seconds=1.5, cpu_seconds=10)

DOUBLE = code_tests(["assert f(2) == 4", {"call": "f", "args": [21], "expected": 42}])


def held(sandbox: Sandbox, source: str, tests=DOUBLE, limits: Limits = LIMITS) -> list[bool]:
    return [why is None for why in failures(sandbox, source, tests, limits)]


def test_right_program_passes_and_wrong_one_does_not(sandbox):
    assert held(sandbox, "def f(x): return 2 * x") == [True, True]
    assert failures(sandbox, "def f(x): return x * x", DOUBLE, LIMITS) == [None, "returned 441"]


TRICKS = (
    "import sys; sys.exit(0)",
    "import os; os._exit(0)",
    "def f(x):\n    import sys; sys.exit(0)",
    "def f(x):\n    import os; os._exit(0)",
    "raise SystemExit",
    "import atexit, os\natexit.register(os._exit, 0)",
    "print('2 of 2 tests hold'); print('null'); print('passed')",
    """
import os
for file in range(0, 8):
    try:
        os.write(file, b'null\\nnull\\n')
    except OSError:
        pass
""",
    "import builtins\nbuiltins.AssertionError = type('Never', (BaseException,), {})\ndef f(x): return 0",
    "class Equal:\n    def __eq__(self, other): return True\ndef f(x): return Equal()",
    "class Equal(float):\n    def __eq__(self, other): return True\ndef f(x): return Equal(0.5)",
    "class Equal(str):\n    def __eq__(self, other): return True\ndef f(x): return Equal('0')",
    "class Equal(list):\n    def __eq__(self, other): return True\ndef f(x): return Equal()",
    """
class Equal(int):
    def __eq__(self, other): return True
    def __int__(self): return 5
def f(x): return Equal(0)
""",
    "def f(x): raise StopIteration",
    "def f(x): raise AssertionError",
    "def f(x): raise GeneratorExit",
    "def f(x): raise KeyboardInterrupt",
    "import plain_data\nplain_data.same = lambda left, right: True\ndef f(x): return 0",
    """
import sys
for module in list(sys.modules.values()):
    for name in ('encode', 'dumps', 'decode', 'same'):
        if hasattr(module, name):
            setattr(module, name, lambda *a, **k: 'null')
def f(x): return 0
""",
    """
import os
os.write(5, b'{"functions": ["abs", "f", "__builtins__", "len"]}\\n')
def f(x): return 0
""",
    'import os\nos.write(5, b\'null\\n[]\\n{}\\n{"value": "true"}\\n\' * 9)\nos._exit(0)',
    "import os\nos.write(5, b'[' * 100_000 + b'\\n')\nos._exit(0)",
    "import os\nos.close(5)\nimport time\ntime.sleep(0.1)",
    "def f(x): return",
    "def f(x): return [[x]]",
    "def f(x):\n    value = []\n    value.append(value)\n    return value",
    "def f(x): return 'a' * 50_000_000",
    "def f(x): return 10 ** 1_000_000",
    "f = 4",
    "x = = 1",
    "\x00",
    "\ud800",
    "",
)


@pytest.mark.parametrize("source", TRICKS)
def test_no_trick_makes_a_test_hold(sandbox, source: str):
    assert held(sandbox, source) == [False, False]


TRICKED_HELPERS = "def {name}(*arguments): return {value}\ndef f(x): return 0"


@pytest.mark.parametrize(
    ("test", "name", "value"),
    [
        ("assert abs(f(2) - 4) < 1e-6", "abs", 0),
        ("assert all(f(x) == 2 * x for x in (2, 3))", "all", True),
        ("assert sum([f(2), f(3)]) == 10", "sum", 10),
        ("import math\nassert math.isclose(f(2), 4)", "math", True),
        ("def check(candidate):\n    assert candidate(2) == 4\ncheck(f)", "check", None),
        ("assert list(map(f, [1, 2])) == [2, 4]", "map", [2, 4]),
    ],
)
def test_names_of_the_test_are_not_the_programs(sandbox, test: str, name: str, value: object):
    assert held(sandbox, TRICKED_HELPERS.format(name=name, value=value), code_tests([test])) == [False]
    assert held(sandbox, "def f(x): return 2 * x", code_tests([test])) == [True]


def test_ending_a_loop_over_the_tests_does_not_skip_them(sandbox):
    test = "assert all(map(lambda x: f(x) == 2 * x, [1, 2]))"
    assert held(sandbox, "def f(x): raise StopIteration", code_tests([test])) == [False]


def test_neither_the_tests_nor_what_they_expect_are_in_the_programs_process(sandbox):
    """It looks through all of its objects, frames and files for what test 2 expects, and for a text in test 1."""
    source = """
import gc, sys, os
def f(x):
    seen = []
    frame = sys._getframe()
    while frame:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back
    seen += [repr(thing) for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple, str))]
    for file in range(3, 9):
        try:
            seen.append(os.pread(file, 100000, 0).decode())
        except OSError:
            pass
    text = ' '.join(seen)
    return any(''.join(reversed(word)) in text for word in ('210937', 'neddih ylrevelc'))
"""
    tests = code_tests(["'cleverly hidden'\nassert f(1) is False", {"call": "f", "args": [2], "expected": 739012}])
    assert failures(sandbox, source, tests, LIMITS) == [None, "returned False"]


def test_values_are_compared_as_python_has_them(sandbox):
    source = "def f(kind): return {'t': (1, 2), 's': {3, 1}, 'd': {(1, 2): 'x'}, 'n': float('nan'), 'b': 2**70}[kind]"
    tests = [
        "assert tuple(f('t')) == (1, 2)",
        "assert f('s') == {1, 3}",
        "assert f('d') == {(1, 2): 'x'}",
        "assert f('n') != f('n')",
        {"call": "f", "args": ["t"], "expected": [1, 2]},
        {"call": "f", "args": ["t"], "expected": (1, 2)},
        {"call": "f", "args": ["b"], "expected": 2**70},
        {"call": "f", "kwargs": {"kind": "d"}, "expected": {(1, 2): "x"}},
        {"call": "f", "args": ["s"], "expected": [1, 3]},
    ]
    assert held(sandbox, source, code_tests(tests)) == [True] * 8 + [False]


def test_a_programs_own_exceptions_can_be_expected(sandbox):
    test = "try:\n    f(-1)\nexcept ValueError as error:\n    assert str(error) == 'below 0'\nelse:\n    assert False"
    right = "def f(x):\n    if x < 0:\n        raise ValueError('below 0')\n    return x"
    assert held(sandbox, right, code_tests([test])) == [True]
    assert held(sandbox, "def f(x): return x", code_tests([test])) == [False]


def test_setup_comes_before_the_tests(sandbox):
    tests = code_tests(["assert isclose(f(0.1), 0.2)"], "from math import isclose")
    assert held(sandbox, "def f(x): return 2 * x", tests) == [True]


def test_state_is_kept_between_the_calls_of_one_program_and_not_beyond(sandbox):
    counter = "calls = []\ndef f():\n    calls.append(1)\n    return len(calls)"
    tests = code_tests(["assert f() == 1", "assert f() == 2"])
    assert held(sandbox, counter, tests) == held(sandbox, counter, tests) == [True, True]


@pytest.mark.parametrize(
    "source", ["while True: pass", "def f(x):\n    while True: pass", "import time; time.sleep(99)"]
)
def test_program_that_hangs_is_out_of_time(sandbox, source: str):
    assert failures(sandbox, source, DOUBLE, SHORT) == ["out of time", "out of time"]


def test_tests_after_one_that_hangs_do_not_hold(sandbox):
    source = "def f(x):\n    while x == 3: pass\n    return 2 * x"
    tests = code_tests(["assert f(2) == 4", "assert f(3) == 6", "assert f(4) == 8"])
    assert failures(sandbox, source, tests, SHORT) == [None, "out of time", "out of time"]


def test_a_test_that_hangs_ends_too(sandbox):
    tests = code_tests(["assert f(2) == 4", "while True: pass", "assert f(2) == 4"])
    assert failures(sandbox, "def f(x): return 4", tests, SHORT) == [None, "out of time", "out of time"]


def test_printing_is_compared_line_by_line_without_blanks_at_the_ends(sandbox):
    tests = code_tests([{"stdin": "3\n4\n", "stdout": "7\nok"}, {"stdin": "1\n1\n", "stdout": "2\nok\n\n"}])
    assert held(sandbox, "print(int(input()) + int(input()), '')\nprint('ok')\n", tests) == [True, True]
    assert failures(sandbox, "print(7)\nprint(' ok')", tests, LIMITS) == ["printed '7\\n ok\\n'"] * 2


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os\nos.kill(os.getpid(), 9)\nimport ctypes\nctypes.string_at(0)", "ended by signal 11"),
        ("while True: print('7' * 1000)", "printed more than 4194304 bytes"),
        ("import time\ntime.sleep(60)", "out of time"),
        ("import sys\nsys.exit(0)", "printed ''"),
        ("import os\nos.write(1, b'7')\nwhile True: pass", "out of time"),
    ],
)
def test_why_a_script_fails(sandbox, source: str, why: str):
    assert failures(sandbox, source, code_tests([{"stdout": "7"}]), SHORT) == [why]


def test_scripts_end_as_scripts_do(sandbox):
    tests = code_tests([{"stdin": "5", "stdout": "5\nthread\nexit"}])
    source = """
import atexit, sys, threading, time
atexit.register(print, 'exit')
def later():
    time.sleep(0.05)
    print('thread')
threading.Thread(target=later).start()
if __name__ == '__main__':
    sys.stdout.write(sys.stdin.read() + '\\n')
"""
    assert held(sandbox, source, tests) == [True]


def test_the_same_program_draws_the_same_numbers(sandbox):
    source = "import random\nprint(random.random(), hash('text'))"
    first, second = (
        failures(sandbox, source, code_tests([{"stdout": "no"}]), LIMITS)[0] for _ in range(2)
    )  # fmt: skip
    assert first == second
    assert first is not None
    assert first.startswith("printed '0.8444218515250481 ")  # random.seed(0)'s first number
