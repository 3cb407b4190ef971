"""The box around all sandboxed programs, where no bubblewrap builds it: its own root, no network, no other processes.

Called by root it needs nothing else; called by anyone else the kernel must allow user namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import files
import kernel

_BUILDING = "/tmp"
"""Any folder that exists: what is mounted on it is seen by this process only."""
_APART = (
    kernel.NEW_MOUNTS
    | kernel.NEW_CGROUPS
    | kernel.NEW_HOSTNAME
    | kernel.NEW_IPC
    | kernel.NEW_PROCESSES
    | kernel.NEW_NETWORK
)


def enter_box(readable: Sequence[str], proc: int) -> None:
    """Comes back in the first process of the new box; the calling process waits for its end and then ends too."""
    if os.geteuid() == 0:
        kernel.unshare(_APART)
    else:
        become_mapped(_APART, 0, proc)
    _go_on_in_first_process()
    _change_root(readable)


def become_mapped(namespaces: int, inner: int, proc: int) -> None:
    """Enters a new user namespace, where this user is number `inner`, and `namespaces` that belong to it.

    `proc` is an open /proc, whose process numbers may be those of an outer namespace.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(kernel.NEW_USERS | namespaces)
    write(proc, "self/setgroups", "deny")
    write(proc, "self/uid_map", f"{inner} {user} 1")
    write(proc, "self/gid_map", f"{inner} {group} 1")


def _go_on_in_first_process() -> None:
    """It is process 1: when it ends, the kernel ends all others of the box."""
    first = os.fork()
    if first:
        files.close_all_but()
        os.waitpid(first, 0)
        os._exit(0)


def _change_root(readable: Sequence[str]) -> None:
    kernel.mount("none", "/", None, kernel.RECURSIVE | kernel.PRIVATE)
    kernel.mount("box", _BUILDING, "tmpfs", kernel.NO_SETUID | kernel.NO_DEVICES, "mode=755,size=1m")
    Path(_BUILDING, "host").mkdir()
    kernel.swap_root(_BUILDING, f"{_BUILDING}/host")
    os.chdir("/")
    for path in readable:
        _show(path)
    Path("/tmp").mkdir()
    kernel.detach("/host")
    Path("/host").rmdir()
    kernel.make_read_only("/")


def _show(path: str) -> None:
    source, target = f"/host{path}", Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.mount(source, path, None, kernel.BIND | kernel.RECURSIVE)


def write(folder: int, path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)
