"""Runs all attacks in a process of its own, as root or not: python attack_driver.py BUILDER USER

Prints JSON: what was seen of each attack, and of the machine afterwards. USER is a number; root becomes that user
before anything is started, after making the folders of groat and Python readable for it (in mounts of its own).
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import tempfile
import time
from pathlib import Path

from sandbox_attacks import ATTACKS, Attack

from groat.tasks.sandbox import Limits, Sandbox, SandboxError
from groat.tasks.sandbox.programs import run_script

SECRET = "the-trainer-s-secret"
ENDLESS = Limits(seconds=1.0)
"""For what is ended anyway."""
LIMITS = Limits(seconds=30.0, cpu_seconds=30)
"""A busy machine is no escape."""


def main() -> None:
    builder, user = sys.argv[1], int(sys.argv[2])
    if os.geteuid() != user:
        become(user)
    os.environ["GROAT_SECRET"] = SECRET
    sandbox = Sandbox(builder)
    try:
        sandbox.check()
    except SandboxError as error:
        print(json.dumps({"refused": str(error)}))
        return
    print(json.dumps(attacked(sandbox)))


def attacked(sandbox: Sandbox) -> dict:
    with tempfile.TemporaryDirectory() as home, socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        Path(home, "secret.txt").write_text(SECRET)
        abstract = socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        unix.bind(f"{home}/socket")
        abstract.bind(f"\0groat-{os.getpid()}")
        listening = [tcp, unix, abstract]
        for server in listening:
            server.listen()
        places = {
            "HOME_FOLDER": home,
            "TCP_PORT": tcp.getsockname()[1],
            "UNIX_SOCKET": f"{home}/socket",
            "ABSTRACT_SOCKET": f"groat-{os.getpid()}",
            "PYTHON_TOP": Path(sys.base_prefix).resolve().parts[1],
        }
        found = {attack.name: _tried(sandbox, attack, places) for attack in ATTACKS}
        was_reached = bool(select.select(listening, [], [], 0.2)[0])
        abstract.close()
    children = still_running(children_of(os.getpid()), but_for=2)
    sandbox.close()
    return {
        "user": os.geteuid(),
        "attacks": found,
        "was_reached": was_reached,
        "num_processes_while_open": len(children),
        "left_after_close": still_running(children),
    }


def _tried(sandbox: Sandbox, attack: Attack, places: dict) -> dict:
    source = attack.source
    for name, value in places.items():
        source = source.replace(name, str(value))
    started = time.monotonic()
    run = run_script(sandbox, source, "", ENDLESS if attack.seen is None else LIMITS)
    seconds = time.monotonic() - started
    after = run_script(sandbox, "print(6 * 7)", "", LIMITS)
    return {
        "stdout": run.stdout[:2000].decode(errors="replace"),
        "error": run.last_error_line,
        "was_late": run.ending.was_late,
        "exit_code": run.ending.exit_code,
        "seconds": seconds,
        "saw_secret": SECRET.encode() in run.stdout,
        "goes_on": after.stdout == b"42\n",
    }


def children_of(parent: int) -> list[int]:
    """All processes below it."""
    parent_of = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent_of[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    below = {parent}
    while more := {pid for pid, above in parent_of.items() if above in below} - below:
        below |= more
    return sorted(below - {parent})


def still_running(processes: list[int], but_for: int = 0) -> list[int]:
    """After a while: what has been let go of ends by itself. Some may be meant to stay."""
    deadline = time.monotonic() + 10
    while len(processes) > but_for and time.monotonic() < deadline:
        processes = [pid for pid in processes if _state(pid) not in ("gone", "Z")]
    return processes


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def become(user: int) -> None:
    """And start again: so that nothing that root has opened stays open."""
    kernel = _kernel()
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    needed = {Path(place).resolve() for place in (sys.base_prefix, sys.prefix, Path(__file__).parents[2])}
    closed = {top for place in needed for top in place.parents if not top.stat().st_mode & 1}
    for folder in sorted(closed, reverse=True):
        _make_passable(kernel, folder, [place for place in needed if folder in place.parents])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.chdir("/")
    os.execve(
        sys.executable,
        [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:]],
        {**os.environ, "HOME": "/nonexistent"},
    )


def _make_passable(kernel, folder: Path, needed: list[Path]) -> None:
    """Covers the folder by one that anyone may pass, with only what is needed in it."""
    kept = []
    for place in needed:
        kept.append(tempfile.mkdtemp())
        kernel.mount(str(place), kept[-1], None, kernel.BIND | kernel.RECURSIVE)
    kernel.mount("passable", str(folder), "tmpfs", 0, "mode=755")
    for place, copy in zip(needed, kept, strict=True):
        place.mkdir(parents=True)
        kernel.mount(copy, str(place), None, kernel.BIND | kernel.RECURSIVE)


def _kernel():
    import importlib

    import groat.tasks.sandbox

    sys.path.insert(0, str(Path(groat.tasks.sandbox.__file__).parent / "inside"))
    return importlib.import_module("kernel")


if __name__ == "__main__":
    main()
