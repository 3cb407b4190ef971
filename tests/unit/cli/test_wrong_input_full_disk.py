"""A disk that fills up or may not be written: one paragraph, exit code 2, and a run that goes on once there is room."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import groat, record_of, refusal, write_recipe

SMALL = {"training": {"max_steps": 6, "save_steps": 1}, "lora": {"r": 8, "lora_alpha": 16}}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts, and with the same path again remounts, a real file system in memory with these options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if place.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "groat-test", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small tmpfs needs root")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_recipe(tmp_path_factory.mktemp("whole"), **SMALL)
    ended = groat(folder, "train", "recipe.yaml")
    assert ended.exit_code == 0, ended.output
    return record_of(folder / "run")


@pytest.mark.parametrize("kibibytes", [4, 40, 100, 160, 300, 500])
def test_a_disk_that_fills_up_ends_the_run_in_words_and_it_goes_on_when_there_is_room(
    tmp_path: Path, disk: Callable[[str], Path], whole: dict[str, Any], kibibytes: int
) -> None:
    folder = write_recipe(tmp_path / "work", **SMALL)
    run = disk(f"size={kibibytes}k") / "run"
    told = refusal(groat(folder, "train", "recipe.yaml", "--output-dir", str(run)))
    assert "disk is full" in told, told
    disk("size=64m")
    if (run / "config.yaml").exists():
        ended = groat(folder, "resume", str(run))
    else:
        ended = groat(folder, "train", "recipe.yaml", "--output-dir", str(run))
    assert ended.exit_code == 0, ended.output
    assert record_of(run) == whole


def test_a_run_whose_folder_has_become_read_only_says_so(
    tmp_path: Path, disk: Callable[[str], Path], whole: dict[str, Any]
) -> None:
    folder = write_recipe(tmp_path / "work", **SMALL)
    run = disk("size=64m") / "run"
    assert groat(folder, "train", "recipe.yaml", "--output-dir", str(run), "--max-steps", "2").exit_code == 0
    disk("ro")
    told = refusal(groat(folder, "resume", str(run), "--max-steps", "6"))
    assert "cannot be written to" in told
    told = refusal(groat(folder, "train", "recipe.yaml", "--output-dir", str(run.with_name("other"))))
    assert "cannot be written to" in told
    assert "--output-dir" in told
