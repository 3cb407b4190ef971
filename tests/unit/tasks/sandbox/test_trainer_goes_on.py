"""What happens to programs when the trainer dies, and to the trainer when a program, or the box, does."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest
from attack_driver import children_of, still_running

import groat
from groat.tasks.code_reward import CodeReward
from groat.tasks.sandbox import Limits, Sandbox, SandboxError
from groat.tasks.sandbox.programs import run_script

LIMITS = Limits(seconds=5.0)
ENDLESS = "import os, time\nos.fork()\nos.setsid() if os.getpid() != 1 else None\nwhile True: time.sleep(1)"

TRAINER = f"""
from groat.tasks.sandbox import Limits, Sandbox
from groat.tasks.sandbox.programs import run_script
sandbox = Sandbox()
print(sandbox.check(), flush=True)
run_script(sandbox, {ENDLESS!r}, "", Limits(seconds=600.0))
"""


def test_everything_ends_when_the_trainer_is_killed(sandbox):
    environment = {**os.environ, "PYTHONPATH": str(Path(groat.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", TRAINER], env=environment, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline().strip() in (b"bubblewrap", b"namespaces")
        processes = _new_processes(5, trainer.pid)  # the box's two, the one that watches, the program's two
        trainer.kill()
    assert still_running(processes) == []


def test_letting_go_ends_a_program(sandbox):
    null = os.open(os.devnull, os.O_RDWR)
    request = os.memfd_create("request")
    os.write(request, json.dumps({"mode": "script", "source": ENDLESS}).encode())
    os.lseek(request, 0, os.SEEK_SET)
    before = set(children_of(os.getpid()))
    leash = sandbox.start([null, null, null, request], Limits(seconds=600.0))
    started = _new_processes(3, os.getpid(), before)
    leash.let_go()
    os.close(null)
    os.close(request)
    assert still_running(started) == []


def test_a_killed_box_is_an_error_and_the_next_program_has_a_new_one():
    before = set(children_of(os.getpid()))
    sandbox = Sandbox()
    sandbox.check()
    _kill_soon(_new_processes(2, os.getpid(), before)[1])
    with pytest.raises(SandboxError, match="ended or hung"):
        run_script(sandbox, "import time\ntime.sleep(5)", "", LIMITS)
    assert run_script(sandbox, "print(42)", "", LIMITS).stdout == b"42\n"
    sandbox.close()


def test_a_reward_goes_on_when_its_box_is_killed(sandbox):
    before = set(children_of(os.getpid()))
    reward = CodeReward(limits=LIMITS)
    _kill_soon(_new_processes(2, os.getpid(), before)[1])
    slow = "```\nimport time\ntime.sleep(1)\nprint(42)\n```"
    assert reward([slow], tests=[[{"stdout": "42"}]]) == [1.0]
    reward.close()


def test_many_threads_share_one_box(sandbox):
    outputs: dict[int, bytes] = {}

    def run(number: int) -> None:
        outputs[number] = run_script(sandbox, f"print({number} ** 2)", "", Limits(seconds=20.0)).stdout

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{number**2}\n".encode() for number in range(16)}


def test_no_file_stays_open(sandbox):
    run_script(sandbox, "print(1)", "", LIMITS)
    before = _num_open_files()
    for _ in range(5):
        run_script(sandbox, "print(1)", "", LIMITS)
    assert _num_open_files() == before


def _num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _kill_soon(process: int) -> None:
    threading.Timer(0.5, os.kill, (process, signal.SIGKILL)).start()


def _new_processes(number: int, parent: int, before: Collection[int] = ()) -> list[int]:
    """At least so many, oldest first; of a box that has just started, the second is its process 1."""
    deadline = time.monotonic() + 30
    while len(found := [process for process in children_of(parent) if process not in before]) < number:
        assert time.monotonic() < deadline, f"only {found}"
        time.sleep(0.05)
    return found
