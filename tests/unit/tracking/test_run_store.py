import math
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conversation_rows import CONVERSATION
from run_rows import HALF_RIGHT, MOSTLY_RIGHT, answer, rollout

from groat.tracking.schema import open_writer
from groat.tracking.store import RunStore
from groat.types import UserError

WRITER = """
import sys
from pathlib import Path
from groat.tracking.rows import RolloutRow
from groat.tracking.store import RunStore
store = RunStore(Path(sys.argv[1]))
for step in range(1, 100_000):
    rows = [RolloutRow(group_index=0, completion_index=index, problem_id="p", prompt_text="q", text="x" * 2000,
            finish_reason="stop", num_tokens=1, reward=1.0, advantage=0.0, policy_version=0) for index in range(16)]
    store.record_step(step, {"reward": float(step), "loss": 0.0}, {"step_time": 1.0}, rows)
    print(step, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


def test_what_is_recorded_is_read_back(path: Path) -> None:
    with RunStore(path) as store:
        store.record_step(1, {"reward": 0.25, "loss": math.nan}, {"step_time": 2.0}, [rollout(1), rollout(0)])
        store.record_step(2, {"reward": 0.5}, {}, [])
        store.record_event(2, "canary", "it sings")
        store.record_evaluation(0, HALF_RIGHT, [answer("p0", "8", False)])
        store.set_meta("seed", {"a": [1, None]})
    with RunStore.read(path) as reader:
        assert reader.metrics("reward") == [(1, 0.25), (2, 0.5)]
        assert math.isnan(reader.metrics("loss")[0][1])
        assert reader.timings("step_time") == [(1, 2.0)]
        assert reader.metric_names() == ["loss", "reward"]
        assert reader.rollouts(1) == [rollout(0), rollout(1)]
        assert reader.last_step() == 2
        assert [(event.step, event.kind, event.message) for event in reader.events()] == [(2, "canary", "it sings")]
        assert reader.evaluations() == {0: HALF_RIGHT}
        assert reader.evaluation(5) is None
        assert reader.answers(0) == [answer("p0", "8", False)]
        assert reader.meta("seed") == {"a": [1, None]}
        assert reader.meta("nothing") is None


def test_timings_are_kept_apart_so_that_the_metrics_of_two_equal_runs_are_equal(tmp_path: Path) -> None:
    for name, seconds in (("first", 1.0), ("second", 3.0)):
        (tmp_path / name).mkdir()
        with RunStore(tmp_path / name / "run.sqlite") as store:
            store.record_step(1, {"reward": 0.1}, {"step_time": seconds}, [])
    tables = [
        sqlite3.connect(tmp_path / name / "run.sqlite").execute("SELECT * FROM metrics").fetchall()
        for name in ("first", "second")
    ]
    assert tables[0] == tables[1] == [(1, "reward", 0.1)]


def test_conversations_are_read_back_with_who_wrote_what(path: Path) -> None:
    row = replace(rollout(), turns=CONVERSATION)
    with RunStore(path) as store:
        store.record_step(1, {}, {}, [row, rollout(completion=1)])
        assert store.rollouts(1) == [row, rollout(completion=1)]
        assert [turn.is_models for turn in store.rollouts(1)[0].turns] == [True, False, True]


def test_a_step_recorded_again_replaces_the_first_record(path: Path) -> None:
    with RunStore(path) as store:
        store.record_step(1, {"reward": 0.1, "old": 1.0}, {}, [rollout(0), rollout(1)])
        store.record_step(1, {"reward": 0.2}, {}, [rollout(0)])
        assert store.metrics("reward") == [(1, 0.2)]
        assert store.metrics("old") == []
        assert len(store.rollouts(1)) == 1


def test_a_run_set_back_to_a_step_forgets_what_came_after_but_keeps_events(path: Path) -> None:
    with RunStore(path) as store:
        for step in (1, 2, 3):
            store.record_step(step, {"reward": 0.1}, {"step_time": 1.0}, [rollout()])
            store.record_event(step, "note", "x")
            store.record_evaluation(step, HALF_RIGHT, [answer("p0", "8", False)])
        store.forget_after(2)
        assert store.last_step() == 2
        assert store.timings("step_time") == [(1, 1.0), (2, 1.0)]
        assert store.rollouts(3) == []
        assert list(store.evaluations()) == [1, 2]
        assert store.answers(3) == []
        assert [event.step for event in store.events()] == [1, 2, 3]


def test_text_with_half_a_surrogate_pair_is_stored_with_a_replacement_character(path: Path) -> None:
    with RunStore(path) as store:
        store.record_step(1, {"n\ud800": 1.0}, {}, [rollout(text="a\ud83d b\ude00 \U0001f600 \x00\x1b[2J")])
        assert store.rollouts(1)[0].text == "a\ufffd b\ufffd \U0001f600 \x00\x1b[2J"
        assert store.metric_names() == ["n\ufffd"]


def test_a_reader_sees_whole_steps_while_the_writer_is_in_the_middle_of_one(path: Path) -> None:
    with RunStore(path) as store:
        store.record_step(1, {"reward": 0.1}, {}, [rollout()])
        with RunStore.read(path) as reader:
            with store._transaction("step 2") as connection:  # pyright: ignore[reportPrivateUsage]
                connection.execute("INSERT INTO metrics VALUES (2, 'reward', 0.2)")
                assert reader.metrics("reward") == [(1, 0.1)]
            assert reader.metrics("reward") == [(1, 0.1), (2, 0.2)]


def test_a_reader_cannot_write(path: Path) -> None:
    RunStore(path).close()
    with RunStore.read(path) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM metrics")  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("num_steps", [1, 20, 55])
def test_killing_the_writer_leaves_whole_steps_only(path: Path, num_steps: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= num_steps:
            os.kill(writer.pid, signal.SIGKILL)
            break
    writer.wait()
    writer.stdout.close()
    with RunStore.read(path) as reader:
        last = reader.last_step()
        assert last is not None
        assert last >= num_steps
        steps = [(step, float(step)) for step in range(1, last + 1)]
        assert reader.metrics("reward") == steps
        assert [step for step, _ in reader.timings("step_time")] == [step for step, _ in steps]
        assert all(len(reader.rollouts(step)) == 16 for step, _ in steps)
    with RunStore(path) as store:
        store.record_step(last + 1, {"reward": 1.0}, {}, [])
        assert store.last_step() == last + 1


def test_a_full_disk_is_an_error_that_says_what_is_safe_and_loses_nothing(path: Path) -> None:
    with RunStore(path) as store:
        store.record_step(1, {"reward": 0.1}, {}, [rollout()])
        # The database may not grow by a page: SQLite answers as it does on a full disk.
        num_pages = store._connection.execute("PRAGMA page_count").fetchone()[0]  # pyright: ignore[reportPrivateUsage]
        store._connection.execute(f"PRAGMA max_page_count = {num_pages}")  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(UserError) as error:
            store.record_step(2, {"reward": 0.2}, {}, [rollout(text="x" * 100_000)])
        assert str(path.parent) in str(error.value)
        assert "step 2" in str(error.value)
        assert "disk is full" in str(error.value)
        assert "safe" in str(error.value)
        assert store.last_step() == 1
        store.record_event(1, "note", "small things still fit")


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(UserError, match=r"run\.sqlite"):
        RunStore(path)
    with pytest.raises(UserError, match=r"run\.sqlite"):
        RunStore.read(path)


def test_a_store_that_was_never_made_is_an_error_and_is_not_created_by_looking(path: Path) -> None:
    with pytest.raises(UserError, match="groat runs"):
        RunStore.read(path)
    assert not path.exists()


def test_a_store_of_another_schema_version_is_refused(path: Path) -> None:
    connection = open_writer(path)
    connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(UserError, match="version 99"):
        RunStore(path)


def test_evaluations_at_two_steps_can_be_compared(path: Path) -> None:
    with RunStore(path) as store:
        store.record_evaluation(0, HALF_RIGHT, [])
        store.record_evaluation(9, MOSTLY_RIGHT, [])
        before, after = store.evaluation(0), store.evaluation(9)
        assert before is not None
        assert after is not None
        assert after["greedy"].value - before["greedy"].value == 0.25
