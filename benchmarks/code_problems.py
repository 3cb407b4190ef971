"""How many code problems a second the sandbox gets through when the programs themselves take no time.

By the clock, and by the time on CPUs of all that takes part (ours, the box's, the program's): what one core would
do if nothing else ran on it.

python -m benchmarks.code_problems [--problems 400] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.spread import Spread
from groat.tasks.code_tests import code_tests, failures
from groat.tasks.sandbox import Limits, Sandbox
from groat.tasks.sandbox.box import Builder, available_builders
from groat.tasks.sandbox.programs import run_script

SOURCE = "def double(x):\n    return 2 * x\n\nif __name__ == '__main__':\n    print(double(21))\n"
TESTS = code_tests([f"assert double({number}) == {2 * number}" for number in range(3)])
LIMITS = Limits(seconds=30.0, cpu_seconds=30)

Run = Callable[[Sandbox], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=400, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} CPUs, user {os.geteuid()}; problems/s, median [least, most]")
    _show("python -I -c, no sandbox", _run_plainly, options)
    for builder in available_builders():
        _show(f"{builder}: scripts", _run_script, options, builder)
        _show(f"{builder}: three asserts, judged", _run_tests, options, builder)


def _show(name: str, run: Run, options: argparse.Namespace, builder: Builder | None = None) -> None:
    for at_once in sorted({1, len(os.sched_getaffinity(0))}):
        rounds = [_rates(run, at_once, options.problems, builder) for _ in range(options.rounds)]
        by_clock, by_cpu = (Spread.of(rates) for rates in zip(*rounds, strict=True))
        print(f"{name:<40} {at_once} at once {_shown(by_clock)}   per core {_shown(by_cpu)}", flush=True)


def _shown(rates: Spread) -> str:
    return f"{rates.median:5.0f} [{rates.low:.0f}, {rates.high:.0f}]"


def _rates(run: Run, at_once: int, num_problems: int, builder: Builder | None) -> tuple[float, float]:
    """By the clock, and by the time on CPUs."""
    sandbox = Sandbox(builder)
    if builder is not None:
        sandbox.check()
    started, used = time.perf_counter(), _cpu_seconds()
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda _: run(sandbox), range(num_problems)))
    seconds = time.perf_counter() - started
    sandbox.close()  # its time is counted when it has ended, its start with it
    return num_problems / seconds, num_problems / (_cpu_seconds() - used)


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _run_plainly(_: Sandbox) -> None:
    done = subprocess.run([sys.executable, "-I", "-c", SOURCE], capture_output=True, check=True)
    assert done.stdout == b"42\n"


def _run_script(sandbox: Sandbox) -> None:
    assert run_script(sandbox, SOURCE, "", LIMITS).stdout == b"42\n"


def _run_tests(sandbox: Sandbox) -> None:
    assert failures(sandbox, SOURCE, TESTS, LIMITS) == [None, None, None]


if __name__ == "__main__":
    main()
