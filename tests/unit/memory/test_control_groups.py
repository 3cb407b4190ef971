"""Limits that containers, systemd and cluster schedulers put on a process, read from made-up trees of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from groat.memory.measure import control_group_room

MIB = 2**20


def group(folder: Path, limit: str, used: int, cached: int = 0, *, old: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if old else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    own, all_within = (0, f"total_inactive_file {cached}\n") if old else (cached, "")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {own}\n{all_within}")


def room(root: Path, own: str) -> float:
    (root / "own").write_text(own)
    return min(control_group_room(root, root / "own"), default=float("inf"))


def test_a_group_that_a_service_or_job_was_put_in_limits_it(tmp_path: Path) -> None:
    group(tmp_path / "system.slice/job.scope", str(900 * MIB), 500 * MIB, cached=100 * MIB)
    assert room(tmp_path, "0::/system.slice/job.scope\n") == 500 * MIB


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    group(tmp_path / "user.slice", str(700 * MIB), 650 * MIB)
    group(tmp_path / "user.slice/job.scope", "max", 100 * MIB)
    assert room(tmp_path, "0::/user.slice/job.scope\n") == 50 * MIB


def test_a_container_sees_its_own_group_at_the_root(tmp_path: Path) -> None:
    group(tmp_path, str(300 * MIB), 100 * MIB)
    assert room(tmp_path, "0::/\n") == 200 * MIB


def test_groups_of_the_first_version_lie_under_memory(tmp_path: Path) -> None:
    group(tmp_path / "memory", "9223372036854771712", 900 * MIB, old=True)
    group(tmp_path / "memory/slurm/job_7", str(800 * MIB), 100 * MIB, old=True)
    assert room(tmp_path, "5:cpu:/elsewhere\n4:memory:/slurm/job_7\n0::/\n") == 700 * MIB


def test_file_caches_of_the_groups_within_are_not_counted_as_used(tmp_path: Path) -> None:
    group(tmp_path / "memory/slurm", str(800 * MIB), 700 * MIB, cached=500 * MIB, old=True)
    assert room(tmp_path, "4:memory:/slurm\n") == 600 * MIB


def test_a_name_may_have_colons(tmp_path: Path) -> None:
    group(tmp_path / "user.slice/dbus-:1.2-app@0.service", str(300 * MIB), 100 * MIB)
    assert room(tmp_path, "0::/user.slice/dbus-:1.2-app@0.service\n") == 200 * MIB


@pytest.mark.parametrize("own", ["", "nonsense\n", "0::/not/there\n", "0::/../..\n", "4:memory\n"])
def test_where_nothing_is_told_nothing_limits(tmp_path: Path, own: str) -> None:
    assert room(tmp_path, own) == float("inf")
