"""The Linux calls that Python's standard library has no function for; each raises OSError where the kernel says no."""

from __future__ import annotations

import ctypes
import os
from functools import cache

NEW_MOUNTS = 0x00020000
NEW_CGROUPS = 0x02000000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_USERS = 0x10000000
NEW_PROCESSES = 0x20000000
NEW_NETWORK = 0x40000000

NO_SETUID, NO_DEVICES, NO_PROGRAMS, BIND, RECURSIVE, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18

_MOUNT_SETATTR = 442  # the same on every architecture since 5.12
_AT_RECURSIVE, _AT_FDCWD = 0x8000, -100
_READ_ONLY_NO_SETUID = 0x1 | 0x2
_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 21, 39
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522
_NUM_CAPABILITIES = 64


class _Program(ctypes.Structure):
    """struct sock_fprog: a seccomp filter."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def unshare(namespaces: int) -> None:
    _check(_libc().unshare(namespaces), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())
    _check(_libc().mount(arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[4]), target)


def make_read_only(target: str) -> None:
    """The mount and all below it; set-uid bits there mean nothing either."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY_NO_SETUID, 0, 0, 0)
    done = _libc().syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_long(_AT_FDCWD),
        target.encode(),
        ctypes.c_long(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(done, f"mount_setattr {target}")


def swap_root(new: str, old: str) -> None:
    _check(_libc().pivot_root(new.encode(), old.encode()), "pivot_root")


def detach(target: str) -> None:
    _check(_libc().umount2(target.encode(), _DETACH), f"umount {target}")


def die_with_parent(signal: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal)


def belong_to_oneself() -> None:
    """After a change of user the kernel gives a process's files in /proc to root; this takes them back."""
    _prctl(_PR_SET_DUMPABLE, 1)


def drop_capabilities() -> None:
    """All of them, for good: none can be inherited or gained by running a program."""
    for capability in range(_NUM_CAPABILITIES):
        # EINVAL: the kernel has fewer. EPERM: we could not gain it either.
        _libc().prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc().capset(ctypes.byref(header), ctypes.byref(nothing)), "capset")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def has_capabilities() -> bool:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    _check(_libc().capget(ctypes.byref(header), ctypes.byref(sets)), "capget")
    return any(sets)


def can_gain_nothing() -> bool:
    return _libc().prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1


def has_filter() -> bool:
    return _libc().prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) == _SECCOMP_MODE_FILTER


def filter_calls(instructions: bytes) -> None:
    """For this process and all that it starts; `instructions` are 8 bytes each (struct sock_filter)."""
    program = _Program(len(instructions) // 8, instructions)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc().prctl(option, *padded), f"prctl {option}")


def _check(returned: int, what: str) -> None:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
