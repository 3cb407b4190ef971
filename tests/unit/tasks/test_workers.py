"""Worker processes keep to their limits, whatever runs in them, and are replaced when they do not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from groat.tasks.isolation import Limits, Target, Worker, WorkerError, WorkerPool
from groat.tasks.reward_calls import Raised, Returned, TimedOut

MIB = 2**20


@pytest.fixture(autouse=True)
def targets_on_the_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])


@pytest.fixture
def worker():
    worker = Worker(Target(name="worker_targets:behave"), Limits(seconds=20, memory_bytes=512 * MIB))
    yield worker
    worker.close()


def impatient(seconds: float = 1.0) -> Worker:
    return Worker(Target(name="worker_targets:behave"), Limits(seconds=seconds))


def error_of(outcome: object) -> str:
    assert isinstance(outcome, Raised)
    assert isinstance(outcome.error, WorkerError)
    return str(outcome.error)


def test_calls_are_answered_by_one_process(worker: Worker):
    assert worker.call({"way": "double", "number": 21}) == Returned(42)
    assert [worker.call({"way": "count"}) for _ in range(3)] == [Returned(1), Returned(2), Returned(3)]


def test_what_is_raised_is_told_and_the_process_goes_on(worker: Worker):
    assert worker.call({"way": "count"}) == Returned(1)
    message = error_of(worker.call({"way": "raise"}))
    assert message.startswith("raised ZeroDivisionError")
    assert "worker_targets.py, line" in message
    assert error_of(worker.call({"way": "exit", "number": 3})).startswith("raised SystemExit: 3")
    assert error_of(worker.call({"way": "recurse"})).startswith("raised RecursionError")
    assert error_of(worker.call({"way": "object"})).startswith("raised TypeError")
    assert worker.call({"way": "count"}) == Returned(2)


def test_a_death_is_told_and_the_process_replaced(worker: Worker):
    assert worker.call({"way": "count"}) == Returned(1)
    assert error_of(worker.call({"way": "die", "number": 3})) == "ended its process (exit status 3)"
    assert error_of(worker.call({"way": "crash"})) == "its process was ended by SIGSEGV"
    assert worker.call({"way": "count"}) == Returned(1)


@pytest.mark.parametrize("way", ["sleep", "ignore signals", "multiply"])
def test_what_hangs_is_killed(way: str):
    """Python code, code that ignores signals, and a multiplication that holds the interpreter's lock."""
    worker = impatient()
    assert worker.call({"way": way, "number": 9}) == TimedOut()
    assert worker.call({"way": "double", "number": 2}) == Returned(4)
    worker.close()


def test_memory_is_limited(worker: Worker):
    assert worker.call({"way": "limits"}) == Returned([512 * MIB, 0])
    assert error_of(worker.call({"way": "allocate", "number": 2**30})).startswith("raised MemoryError")
    assert worker.call({"way": "allocate", "number": 2**20}) == Returned(2**20)


def test_files_cannot_be_written_and_few_opened(worker: Worker):
    assert "File too large" in error_of(worker.call({"way": "write", "number": 10}))
    assert "Too many open files" in error_of(worker.call({"way": "nofile", "number": 100}))


def test_the_channel_is_neither_standard_input_nor_output(worker: Worker):
    assert worker.call({"way": "print", "number": 10**6}) == Returned(10**6)
    assert worker.call({"way": "standard input"}) == Returned("")
    assert worker.call({"way": "double", "number": 3}) == Returned(6)


def test_what_judges_model_text_does_not_see_the_environment(monkeypatch: pytest.MonkeyPatch, worker: Worker):
    monkeypatch.setenv("A_SECRET", "1")
    outcome = worker.call({"way": "environment"})
    assert isinstance(outcome, Returned)
    sparse = {"LANG", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONHASHSEED"}
    assert set(outcome.value) - {"LC_CTYPE"} == sparse
    trusted = Worker(Target(name="worker_targets:behave", is_trusted=True), Limits(seconds=20))
    outcome = trusted.call({"way": "environment"})
    assert isinstance(outcome, Returned)
    assert "A_SECRET" in outcome.value
    trusted.close()


def test_children_of_a_late_call_are_killed_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    file = tmp_path / "pid"
    monkeypatch.setenv("GROAT_TEST_PID_FILE", str(file))
    worker = Worker(Target(name="worker_targets:behave", is_trusted=True), Limits(seconds=5))
    assert worker.call({"way": "leave a child"}) == TimedOut()
    assert is_gone(int(file.read_text()))


def test_a_target_that_is_not_there_is_named():
    worker = Worker(Target(name="worker_targets:nothing"), Limits(seconds=5))
    with pytest.raises(WorkerError, match=r"worker_targets:nothing.*AttributeError"):
        worker.call({})


def test_a_closed_worker_leaves_no_process(worker: Worker):
    worker.call({"way": "double"})
    process = worker._process
    assert process is not None
    worker.close()
    assert process.returncode is not None


def test_a_launcher_is_put_before_the_command():
    seen: list[Sequence[str]] = []

    def launcher(command: Sequence[str]) -> Sequence[str]:
        seen.append(command)
        return ["env", "LAUNCHED=yes", *command]

    worker = Worker(Target(name="worker_targets:behave"), Limits(seconds=20), launcher)
    outcome = worker.call({"way": "environment"})
    worker.close()
    assert isinstance(outcome, Returned)
    assert "LAUNCHED" in outcome.value
    assert seen[0][0] == sys.executable


def test_a_pool_keeps_the_order_and_loses_only_the_calls_that_hang():
    pool = WorkerPool(Target(name="worker_targets:behave"), Limits(seconds=3), num_workers=2)
    calls = [
        {"way": "sleep", "number": 1000} if place % 5 == 2 else {"way": "double", "number": place} for place in range(8)
    ]
    outcomes = pool.call_all(calls)
    assert outcomes == [TimedOut() if place % 5 == 2 else Returned(2 * place) for place in range(8)]
    pool.close()


def is_gone(process_id: int) -> bool:
    """Killed processes stay for a moment, until somebody has asked for their exit status."""
    for _ in range(100):
        with suppress(OSError):
            if Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
