"""How many code problems a second the sandbox gets through when the programs themselves take no time.

python -m benchmarks.code_problems [--problems 400] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from groat.tasks.code_tests import code_tests, failures
from groat.tasks.sandbox import Limits, Sandbox
from groat.tasks.sandbox.box import available_builders
from groat.tasks.sandbox.programs import run_script

SOURCE = "def double(x):\n    return 2 * x\n\nif __name__ == '__main__':\n    print(double(21))\n"
TESTS = code_tests([f"assert double({number}) == {2 * number}" for number in range(3)])
LIMITS = Limits(seconds=30.0, cpu_seconds=30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=400, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} CPUs, user {os.geteuid()}; problems/s, median [least, most]")
    _show("python -I -c, no sandbox", _run_plainly, options)
    for builder in available_builders():
        sandbox = Sandbox(builder)
        sandbox.check()
        _show(f"{builder}: scripts", lambda sandbox=sandbox: _run_script(sandbox), options)
        _show(f"{builder}: three asserts, judged", lambda sandbox=sandbox: _run_tests(sandbox), options)
        sandbox.close()


def _show(name: str, run: Callable[[], None], options: argparse.Namespace) -> None:
    for at_once in sorted({1, len(os.sched_getaffinity(0))}):
        rates = [_rate(run, at_once, options.problems) for _ in range(options.rounds)]
        shown = f"{statistics.median(rates):6.0f} [{min(rates):.0f}, {max(rates):.0f}]"
        print(f"{name:<40} {at_once} at once {shown}", flush=True)


def _rate(run: Callable[[], None], at_once: int, num_problems: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda _: run(), range(num_problems)))
    return num_problems / (time.perf_counter() - started)


def _run_plainly() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SOURCE], capture_output=True, check=True)
    assert done.stdout == b"42\n"


def _run_script(sandbox: Sandbox) -> None:
    assert run_script(sandbox, SOURCE, "", LIMITS).stdout == b"42\n"


def _run_tests(sandbox: Sandbox) -> None:
    assert failures(sandbox, SOURCE, TESTS, LIMITS) == [None, None, None]


if __name__ == "__main__":
    main()
