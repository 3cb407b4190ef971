"""Every attack, with both ways of building the box, as root (where the tests are) and as a normal user."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_attacks import ATTACKS

import groat

HELPERS = Path(__file__).parents[3] / "helpers"
NORMAL_USER = 1234
MOST_SECONDS = 60.0
"""Twice what the longest may take: what is longer hangs."""

ways = pytest.mark.parametrize("builder", ["bubblewrap", "namespaces"])
users = pytest.mark.parametrize("user", ["root", "normal user"])


@functools.cache
def attacked(builder: str, user: str) -> dict:
    if builder == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed; the way without it is tested")
    if user == "root" and os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    number = 0 if user == "root" else os.geteuid() or NORMAL_USER
    source = str(Path(groat.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(HELPERS / "attack_driver.py"), builder, str(number)],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    seen = json.loads(done.stdout)
    if "refused" in seen:
        pytest.skip(f"no isolation to be had by {builder} as {user}: {seen['refused']}")
    return seen


@ways
@users
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_held_and_the_next_program_runs(builder: str, user: str, attack):
    seen = attacked(builder, user)["attacks"][attack.name]
    assert "ESCAPED" not in seen["stdout"]
    assert attack.seen is None or attack.seen in seen["stdout"], seen
    assert not seen["saw_secret"]
    assert seen["seconds"] < MOST_SECONDS
    assert seen["goes_on"]


@ways
@users
def test_what_never_ends_is_ended(builder: str, user: str):
    seen = attacked(builder, user)["attacks"]
    endless = [name for name in seen if name.startswith("endless") or name in ("fork bomb", "ignored signals")]
    assert len(endless) == 5
    assert all(seen[name]["exit_code"] == -9 for name in endless)


@ways
@users
def test_nothing_was_reached_and_nothing_is_left(builder: str, user: str):
    seen = attacked(builder, user)
    assert not seen["was_reached"]  # neither by TCP nor by unix sockets
    assert seen["num_processes_while_open"] == 2  # the box's own two: every program and its children are gone
    assert seen["left_after_close"] == []


@ways
@users
def test_the_attacks_ran_as_the_user_they_are_named_after(builder: str, user: str):
    assert (attacked(builder, user)["user"] == 0) == (user == "root")


@pytest.mark.parametrize("name", ["/etc/passwd", "inherited files", "folders of the host", "/proc"])
def test_attack_gets_out_where_there_is_no_sandbox(name: str):
    """So that `held` means something."""
    [attack] = [attack for attack in ATTACKS if attack.name == name]
    file = os.open("/proc", os.O_RDONLY)
    done = subprocess.run(
        [sys.executable, "-c", attack.source], capture_output=True, text=True, check=True, pass_fds=[file]
    )
    os.close(file)
    assert "ESCAPED" in done.stdout
