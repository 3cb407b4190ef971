import errno
import itertools
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from groat.training import checkpoint
from groat.training.checkpoint import Progress, newest_checkpoint, save_checkpoint
from groat.types import UserError

OPERATIONS = ((Path, "mkdir"), (checkpoint, "save_file"), (Path, "write_text"), (os, "fsync"), (Path, "rename"))
NUM_OPERATIONS = 10
"""A folder, three files, a fsync of each and of the folder, the rename, and a fsync of the folder above."""


def save(folder: Path, step: int, keep: int = 2) -> Path:
    progress = Progress(step=step, policy_version=step, train_seconds=1.5, peak_bytes=7)
    return save_checkpoint(folder, progress, {"weight": torch.full((3, 2), float(step))}, keep, lambda: None)


def newest_step(folder: Path) -> tuple[int | None, list[str]]:
    """The step found, its tensors checked, and the warnings on the way."""
    warnings: list[str] = []
    found = newest_checkpoint(folder, warnings.append)
    if found is None:
        return None, warnings
    assert torch.equal(found.tensors["weight"], torch.full((3, 2), float(found.progress.step)))
    return found.progress.step, warnings


def before_each_operation(patch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """From now on `act` is called with the number of the operation, from 1, before it happens."""
    numbers = itertools.count(1)

    def watched(plain: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            act(next(numbers))
            return plain(*args, **options)

        return call

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, watched(getattr(owner, name)))


def save_and_die(folder: Path, at: int) -> None:
    """Runs in a process of its own. Killed before operation `at`, or ends by itself when there are fewer."""
    with pytest.MonkeyPatch.context() as patch:
        before_each_operation(patch, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)
        save(folder, 6)


def test_a_checkpoint_comes_back_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]
    assert newest_step(tmp_path) == (6, [])
    assert newest_step(tmp_path / "none") == (None, [])


@pytest.mark.slow
def test_killed_at_any_operation_of_a_save_the_newest_complete_checkpoint_loads(tmp_path: Path) -> None:
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["groat.training.checkpoint"])
    found: list[int | None] = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        save(folder, 4)
        child = forks.Process(target=save_and_die, args=(folder, at))
        child.start()
        child.join()
        step, warnings = newest_step(folder)
        assert warnings == []
        found.append(step)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        # The resumed run saves this step again, and clears away what was left half-written.
        save(folder, 6)
        assert newest_step(folder) == (6, [])
        assert not list(folder.glob(".*"))
    # The old one up to the rename; then the new one, whether or not the folder above was synced.
    assert found == [4] * (NUM_OPERATIONS - 1) + [6, 6]


def test_a_disk_that_fails_at_any_operation_leaves_the_older_checkpoint_and_says_so(tmp_path: Path) -> None:
    for at in range(1, NUM_OPERATIONS + 1):
        folder = tmp_path / str(at)
        save(folder, 4)

        def fail(number: int, at: int = at) -> None:
            if number == at:
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.MonkeyPatch.context() as patch:
            before_each_operation(patch, fail)
            with pytest.raises(UserError, match=rf"^{folder}: the checkpoint of step 6 .*disk is full"):
                save(folder, 6)
        assert newest_step(folder) == (6 if at == NUM_OPERATIONS else 4, [])
        assert not list(folder.glob(".*"))


def flip_a_bit(folder: Path) -> None:
    state = bytearray((folder / "state.safetensors").read_bytes())
    state[-3] ^= 1
    (folder / "state.safetensors").write_bytes(state)


def cut_the_state_short(folder: Path) -> None:
    os.truncate(folder / "state.safetensors", 40)


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def name_a_file_outside(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["../step-00000004/state.safetensors"] = manifest.pop("state.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def put_a_symlink_in_place_of_the_state(folder: Path) -> None:
    shutil.move(folder / "state.safetensors", folder.parent / "elsewhere")
    (folder / "state.safetensors").symlink_to(folder.parent / "elsewhere")


def be_a_symlink(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def be_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def make_the_manifest_a_list(folder: Path) -> None:
    (folder / "manifest.json").write_text('["state.safetensors", "progress.json"]')


def nest_the_manifest_deeply(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 60_000)


def make_the_manifest_huge(folder: Path) -> None:
    (folder / "manifest.json").write_text(" " * 2**20)


def forge_other_progress(folder: Path) -> None:
    (folder / "progress.json").write_text('{"step": 600}')


DAMAGES = [
    flip_a_bit,
    cut_the_state_short,
    lose_the_manifest,
    empty,
    name_a_file_outside,
    put_a_symlink_in_place_of_the_state,
    be_a_symlink,
    be_a_file,
    make_the_manifest_a_list,
    nest_the_manifest_deeply,
    make_the_manifest_huge,
    forge_other_progress,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning_and_the_older_one_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 4)
    damage(save(tmp_path, 6))
    step, warnings = newest_step(tmp_path)
    assert step == 4
    assert len(warnings) == 1
    assert f"checkpoint {tmp_path / 'step-00000006'} is damaged and was passed over" in warnings[0]
    # The step is trained and saved again; even if only one is kept, it is that one and not the damaged one.
    save(tmp_path, 5, keep=1)
    assert newest_step(tmp_path) == (5, [])
    save(tmp_path, 6, keep=1)
    assert newest_step(tmp_path) == (6, [])


def test_a_damaged_checkpoint_in_a_folder_that_cannot_be_written_is_passed_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 4)
    flip_a_bit(save(tmp_path, 6))

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    step, warnings = newest_step(tmp_path)
    assert (step, len(warnings)) == (4, 1)


def test_training_on_from_a_checkpoint_does_not_write_into_its_file(tmp_path: Path) -> None:
    path = save(tmp_path, 4) / "state.safetensors"
    before = path.read_bytes()
    found = newest_checkpoint(tmp_path, print)
    assert found is not None
    found.tensors["weight"].add_(1)
    assert path.read_bytes() == before


def test_what_safetensors_cannot_write_is_told_with_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise checkpoint.SafetensorError("I/O error: Permission denied (os error 13)")

    monkeypatch.setattr(checkpoint, "save_file", refuse)
    with pytest.raises(UserError, match="the folder cannot be written to"):
        save(tmp_path, 2)
