"""Which system calls a sandboxed program may make (a seccomp filter in classic BPF).

Refused is what talks to others (sockets), takes memory that no limit counts, makes namespaces or mounts, looks into
other processes, or is an odd corner of the kernel that no program needs. Calls newer than this list do not exist.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator
from functools import cache

NEWEST = 450
"""The highest call number that this list knows (Linux 6.1)."""

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH and the column of REFUSED. aarch64 has not been run."""

REFUSED: dict[str, tuple[int, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "seccomp": (317, 277),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "process_mrelease": (448, 448),
    "lookup_dcookie": (212, 18),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "create_module": (174, None),
    "nfsservctl": (180, 42),
}
"""Call numbers on x86_64 and aarch64; None: has no such call."""

CLONE, CLONE3, SOCKETPAIR = (56, 220), (435, 435), (53, 199)
NAMESPACE_FLAGS = 0x7E020080
"""CLONE_NEW*: time, mounts, cgroups, hostname, ipc, users, processes, network."""
AF_UNIX = 1

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


@cache
def seccomp_filter() -> bytes:
    """The program for this machine, 8 bytes for each instruction; OSError where we have no numbers for it."""
    if platform.machine() not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _instructions(platform.machine()))


def _instructions(architecture: str) -> Iterator[tuple[int, int, int, int]]:
    """(operation, jump if true, jump if false, value)."""
    audit, column = ARCHITECTURES[architecture]
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, audit
    yield _RETURN, 0, 0, _KILL
    yield _LOAD, 0, 0, _NUMBER
    yield from _answer_if(_GREATER, NEWEST, errno.ENOSYS)  # the x32 calls too
    # glibc falls back to clone, whose flags can be looked at.
    yield from _answer_if(_EQUAL, CLONE3[column], errno.ENOSYS)
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            yield from _answer_if(_EQUAL, number, errno.EPERM)
    yield _EQUAL, 0, 3, CLONE[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield from _answer_if(_ANY_BIT, NAMESPACE_FLAGS, errno.EPERM)
    yield _LOAD, 0, 0, _NUMBER
    yield _EQUAL, 0, 3, SOCKETPAIR[column]
    yield _LOAD, 0, 0, _FIRST_ARGUMENT
    yield _EQUAL, 1, 0, AF_UNIX
    yield _RETURN, 0, 0, _ERROR | errno.EPERM
    yield _RETURN, 0, 0, _ALLOW


def _answer_if(comparison: int, value: int, error: int) -> Iterator[tuple[int, int, int, int]]:
    yield comparison, 0, 1, value
    yield _RETURN, 0, 0, _ERROR | error
