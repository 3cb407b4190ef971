"""Programs that try to get out of the sandbox, to harm, or to hang, each with what must be seen of it.

`{...}` is filled in by the driver: {home} a folder with secret.txt, {port}, {unix} and {abstract} sockets that listen,
{marker} a text in the command line of whatever is left running. A program that gets out prints ESCAPED.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Attack:
    name: str
    source: str
    seen: str = "held"
    """In the output."""
    is_ended_by_us: bool = False
    """Late, or ended by a limit: then nothing need be seen."""


def _denied(statement: str) -> str:
    return f"try:\n    {statement}\n    print('ESCAPED')\nexcept BaseException as error:\n    print('held', type(error).__name__)"


CTYPES = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"

ATTACKS = (
    Attack(name="fork bomb", source="import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", is_ended_by_us=True),
    Attack(
        name="number of processes",
        source="import os, time\nn = 0\ntry:\n    while n < 50:\n        if os.fork() == 0:\n            time.sleep(60)\n        n += 1\nexcept OSError:\n    pass\nprint('held' if n < 4 else 'ESCAPED', n)",
        seen="held 3",
    ),
    Attack(
        name="number of threads",
        source="import threading, time\nn = 0\ntry:\n    while n < 50:\n        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n        n += 1\nexcept RuntimeError:\n    pass\nprint('held' if n < 4 else 'ESCAPED', n)",
        seen="held 3",
    ),
    Attack(name="10 GB allocation", source="try:\n    x = bytearray(10 * 2**30)\n    print('ESCAPED')\nexcept MemoryError:\n    print('held')"),
    Attack(name="allocation in small pieces", source="x = []\ntry:\n    while len(x) < 10_000:\n        x.append(bytearray(2**20))\n    print('ESCAPED')\nexcept MemoryError:\n    n = len(x)\n    x = None\n    print('held' if n < 512 else 'ESCAPED', n)"),
    Attack(name="endless loop", source="while True:\n    pass", is_ended_by_us=True),
    Attack(name="endless sleep", source="import time\ntime.sleep(10**6)", is_ended_by_us=True),
    Attack(name="endless loop in C", source="print(10**10**8 % 7)", is_ended_by_us=True),
    Attack(name="ignored signals", source="import signal\nfor number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\nwhile True:\n    pass", is_ended_by_us=True),
    Attack(
        name="double fork and setsid",
        source="import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        keep = '{marker}'\n        time.sleep(600)\n    os._exit(0)\nprint('held')",
    ),
    Attack(name="stopped process", source="import os, signal\nif os.fork() == 0:\n    os.kill(os.getpid(), signal.SIGSTOP)\nimport time\ntime.sleep(600)", is_ended_by_us=True),
    Attack(name="kill everything", source="import os, signal\ntry:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass\nfor pid in range(2, 40000):\n    try:\n        os.kill(pid, signal.SIGKILL)\n        print('ESCAPED', pid)\n    except OSError:\n        pass\nprint('held')"),
    Attack(name="/proc", source=_denied("open('/proc/1/environ').read(); open('/proc/self/maps').read()")),
    Attack(name="mount /proc", source=CTYPES + "import os\nos.mkdir('/tmp/p')\nprint('held' if libc.mount(b'p', b'/tmp/p', b'proc', 0, None) else 'ESCAPED')"),
    Attack(name="environment", source="import os\nprint('held' if set(os.environ) <= {{'PATH', 'HOME', 'LC_ALL', 'PYTHONHASHSEED', 'PWD'}} else 'ESCAPED', dict(os.environ))"),
    Attack(name="environment of libc", source=CTYPES + "p = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\ni = 0\nwhile p[i]:\n    print(p[i])\n    i += 1\nprint('held')"),
    Attack(name="$HOME", source=_denied("print(open('{home}/secret.txt').read())")),
    Attack(name="/etc/passwd", source=_denied("print(open('/etc/passwd').read())")),
    Attack(name="folders of the host", source="import os\nfound = set(os.listdir('/')) - {{'tmp', 'dev', 'usr', 'lib', 'lib64', 'etc'}} - {{'{python_top}'}}\nprint('ESCAPED' if found else 'held', found)"),
    Attack(name="climb out of the root", source="import os\nos.chdir('/')\nfor _ in range(50):\n    os.chdir('..')\nprint('ESCAPED' if os.path.exists('proc') or os.path.exists('home') else 'held')\n" + _denied("os.chroot('/tmp')")),
    Attack(name="loopback", source=_denied("import socket; socket.create_connection(('127.0.0.1', {port}), 1)")),
    Attack(name="unix socket", source=_denied("import socket; socket.socket(socket.AF_UNIX).connect('{unix}')")),
    Attack(name="abstract unix socket", source=_denied("import socket; socket.socket(socket.AF_UNIX).connect('\\0{abstract}')")),
    Attack(name="datagram by a socket pair", source="import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n" + _denied("a.sendto(b'x', '\\0{abstract}')")),
    Attack(name="raw system call for a socket", source=CTYPES + "print('held' if libc.syscall(41, 2, 1, 0) == -1 and libc.syscall(41, 16, 3, 0) == -1 else 'ESCAPED')"),
    Attack(name="32-bit system call numbers (x32)", source=CTYPES + "print('held' if libc.syscall(0x40000000 + 41, 2, 1, 0) == -1 else 'ESCAPED')"),
    Attack(name="name lookup", source=_denied("import socket; socket.getaddrinfo('localhost', 80)") if False else _denied("import socket; socket.create_connection(('example.com', 80), 1)")),
    Attack(name="1 GB in a file", source="n = 0\ntry:\n    with open('/tmp/big', 'wb', buffering=0) as file:\n        while n < 2**30:\n            n += file.write(bytes(2**20))\n    print('ESCAPED')\nexcept OSError:\n    print('held' if n <= 4 * 2**20 else 'ESCAPED', n)"),
    Attack(name="1 GB in many files", source="n = 0\ntry:\n    for name in range(1024):\n        with open(f'/tmp/{{name}}', 'wb', buffering=0) as file:\n            n += file.write(bytes(2**20))\n    print('ESCAPED')\nexcept OSError:\n    print('held' if n <= 16 * 2**20 else 'ESCAPED', n)"),
    Attack(name="10^6 files", source="n = 0\ntry:\n    for n in range(10**6):\n        open(f'/tmp/{{n}}', 'w').close()\n    print('ESCAPED')\nexcept OSError:\n    print('held' if n <= 256 else 'ESCAPED', n)"),
    Attack(name="write elsewhere", source="import os, sys\nopened = []\nfor folder in ('/', '/usr', '/lib', '/dev', '/etc', sys.prefix, os.path.dirname(os.__file__), '/dev/shm'):\n    try:\n        open(os.path.join(folder, 'groat-attack'), 'w').close()\n        opened.append(folder)\n    except OSError:\n        pass\nprint('ESCAPED' if opened else 'held', opened)"),
    Attack(name="change the standard library", source="import os\n" + _denied("open(os.__file__, 'a').write('x = 1')")),
    Attack(name="symlinks", source="import os\nos.symlink('{home}/secret.txt', '/tmp/link')\nos.symlink('/proc/1/root', '/tmp/root')\n" + _denied("print(open('/tmp/link').read())") + "\nprint('ESCAPED' if os.path.exists('/tmp/root/etc') else 'held')"),
    Attack(name="hard links and device files", source="import os, stat\n" + _denied("os.link('/usr/lib/os-release', '/tmp/x')") + "\n" + _denied("os.mknod('/tmp/sda', stat.S_IFBLK | 0o666, os.makedev(254, 0)); open('/tmp/sda', 'rb').read(1)")),
    Attack(name="stdout flood", source="import os\nchunk = b'a' * 2**20\nn = 0\ntry:\n    while n < 2**30:\n        n += os.write(1, chunk)\n    ended = 'ESCAPED'\nexcept OSError:\n    ended = 'held'\nos.ftruncate(1, 0)\nos.lseek(1, 0, 0)\nprint(ended if n <= 4 * 2**20 else 'ESCAPED')"),
    Attack(name="stderr flood", source="import os\nn = 0\ntry:\n    while n < 2**30:\n        n += os.write(2, b'a' * 2**20)\n    print('ESCAPED')\nexcept OSError:\n    print('held')"),
    Attack(name="inherited files", source="import os\nfound = []\nfor file in range(3, 5000):\n    try:\n        os.fstat(file)\n        found.append(file)\n    except OSError:\n        pass\nprint('ESCAPED' if found else 'held', found)"),
    Attack(name="its own input", source="import os\n" + _denied("os.ftruncate(0, 2**20)")),
    Attack(name="user namespace", source=CTYPES + "print('held' if all(libc.unshare(flag) == -1 for flag in (0x10000000, 0x20000, 0x40000000)) else 'ESCAPED')"),
    Attack(name="clone into a user namespace", source=CTYPES + "print('held' if libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) == -1 and libc.syscall(435, 0, 0) == -1 else 'ESCAPED')"),
    Attack(name="become root", source="import os\n" + _denied("os.setuid(0)") + "\n" + _denied("os.setgroups([0])")),
    Attack(name="capabilities", source=CTYPES + "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\nsets = (ctypes.c_uint32 * 6)()\nassert libc.capget(ctypes.byref(header), ctypes.byref(sets)) == 0\nprint('held' if not any(sets) and libc.prctl(23, 21, 0, 0, 0) == 0 and libc.prctl(39, 0, 0, 0, 0) == 1 and libc.prctl(21, 0, 0, 0, 0) == 2 else 'ESCAPED', list(sets))"),
    Attack(name="raise its limits", source="import resource\ndone = []\nfor name in ('AS', 'NPROC', 'FSIZE', 'CPU', 'NOFILE'):\n    try:\n        resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (2**40, 2**40))\n        done.append(name)\n    except (ValueError, OSError):\n        pass\nprint('ESCAPED' if done else 'held', done)"),
    Attack(name="memory outside of the address space", source=CTYPES + "print('held' if libc.shmget(0, 2**30, 0o1600) == -1 and libc.syscall(319, b'x', 0) == -1 and libc.syscall(447, 0) == -1 else 'ESCAPED')"),
    Attack(name="look into other processes", source=CTYPES + "print('held' if libc.ptrace(16, 2, 0, 0) == -1 and libc.syscall(310, 2, 0, 0, 0, 0, 0) == -1 and libc.syscall(434, 2, 0) == -1 else 'ESCAPED')"),
    Attack(name="kernel interfaces", source=CTYPES + "print('held' if all(libc.syscall(number, 0, 0, 0, 0, 0) == -1 for number in (321, 298, 425, 323, 250, 246, 165, 175, 155)) else 'ESCAPED')"),
    Attack(name="what earlier programs left", source="import os\nprint('held' if os.listdir('/tmp') == [] and os.getcwd() == '/tmp' else 'ESCAPED', os.listdir('/tmp'))"),
    Attack(name="deep recursion", source="import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    f()\nf()", is_ended_by_us=True),
    Attack(name="crash", source=CTYPES + "libc.abort()", is_ended_by_us=True),
    Attack(name="a pipe full of open files", source="import os\nn = 0\ntry:\n    while n < 10_000:\n        os.pipe()\n        n += 1\n    print('ESCAPED')\nexcept OSError:\n    print('held')"),
)  # fmt: skip
