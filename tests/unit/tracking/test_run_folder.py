import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_rows import rollout

from groat.tracking.folder import RunFolder, numbered_output_dir, write_atomically
from groat.tracking.lock import RunLock, lock_holder
from groat.tracking.store import RunStore
from groat.types import UserError

REWRITER = """
import sys
from pathlib import Path
from groat.tracking.folder import write_atomically
print("ready", flush=True)
while True:
    for letter in b"ab":
        write_atomically(Path(sys.argv[1]), bytes([letter]) * 300_000)
"""
HOLDER = """
import sys, time
from pathlib import Path
from groat.tracking.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_new_folder_has_room_for_checkpoints_and_knows_its_files(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "one")
    assert folder.checkpoints.is_dir()
    assert folder.config_path == tmp_path / "runs" / "one" / "config.yaml"
    assert folder.store_path.name == "run.sqlite"
    assert folder.plan_path.name == "plan.json"
    assert folder.adapter.name == "adapter"


def test_a_folder_with_a_run_is_not_used_again(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    write_atomically(folder.config_path, b"seed: 1\n")
    with pytest.raises(UserError, match=f"groat resume {tmp_path}.*--output-dir"):
        RunFolder.create(tmp_path)
    assert folder.config_path.read_bytes() == b"seed: 1\n"
    assert RunFolder.open(tmp_path) == folder


def test_a_folder_in_which_nothing_was_begun_can_be_used_again(tmp_path: Path) -> None:
    RunFolder.create(tmp_path)
    RunFolder.create(tmp_path)


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_what_is_not_a_run_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{name} is not the folder of a run.*groat runs"):
        RunFolder.open(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run"):
        RunFolder.create(tmp_path / "file" / "run")


def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulated: root may write anywhere.
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written to.*--output-dir"):
        RunFolder.create(tmp_path / "run")


def test_a_written_file_holds_the_bytes_and_leaves_no_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "plan.json", b"old")
    write_atomically(tmp_path / "plan.json", b"new")
    assert (tmp_path / "plan.json").read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomically(tmp_path / "plan.json", b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "replace", full)))
    with pytest.raises(UserError) as error:
        write_atomically(tmp_path / "plan.json", b"new")
    assert str(tmp_path) in str(error.value)
    assert "disk is full" in str(error.value)
    assert "untouched" in str(error.value)
    assert (tmp_path / "plan.json").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "groat-test", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def record_steps_until_it_fails(store: RunStore) -> None:
    for step in range(1, 1000):
        store.record_step(step, {"reward": 0.1}, {}, [rollout(text="x" * 20_000)])


def test_on_a_disk_that_is_really_full_old_files_and_steps_stay_readable(small_disk: Path) -> None:
    write_atomically(small_disk / "plan.json", b"old")
    with RunStore(small_disk / "run.sqlite") as store:
        with pytest.raises(UserError, match="disk is full") as error:
            record_steps_until_it_fails(store)
        last = store.last_step()
        assert last is not None
        assert f"step {last + 1} could not be written" in str(error.value)
        assert len(store.rollouts(last)) == 1
    with pytest.raises(UserError, match="disk is full"):
        write_atomically(small_disk / "plan.json", b"n" * 600_000)
    assert (small_disk / "plan.json").read_bytes() == b"old"
    with RunStore.read(small_disk / "run.sqlite") as reader:
        assert reader.last_step() == last


def test_a_writer_killed_at_any_moment_leaves_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"a" * 300_000)
    for milliseconds in (1, 3, 7, 13, 29):
        writer = subprocess.Popen([sys.executable, "-c", REWRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(milliseconds / 1000)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)


def test_numbered_folders_take_the_first_free_number_and_plain_names(tmp_path: Path) -> None:
    pattern = str(tmp_path / "{name}")
    first = numbered_output_dir(pattern, "Qwen/Qwen2.5-0.5B", "data/my task.jsonl")
    assert first == tmp_path / "Qwen2.5-0.5B-my-task-1"
    first.mkdir()
    assert numbered_output_dir(pattern, "Qwen/Qwen2.5-0.5B", "data/my task.jsonl").name == "Qwen2.5-0.5B-my-task-2"
    assert numbered_output_dir(pattern, "../..", "..").name == "run-run-1"
    assert numbered_output_dir("fixed", "model", "task") == Path("fixed")


def test_a_summary_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path)
    assert folder.read_summary() is None
    folder.write_summary({"steps": 3})
    assert folder.read_summary() == {"steps": 3}
    assert json.loads(folder.summary_path.read_text()) == {"steps": 3}
    folder.summary_path.write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        folder.read_summary()


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    try:
        assert lock_holder(tmp_path) == holder.pid
        with pytest.raises(UserError, match=f"process {holder.pid} "), RunLock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    # The kill let go of it.
    assert lock_holder(tmp_path) is None
    with RunLock(tmp_path):
        assert lock_holder(tmp_path) == os.getpid()
    assert lock_holder(tmp_path) is None


def test_a_folder_never_trained_in_is_held_by_nobody_and_asking_writes_nothing(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    assert not any(tmp_path.iterdir())
