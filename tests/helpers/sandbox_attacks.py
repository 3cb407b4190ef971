"""Programs that try to get out of the sandbox, to harm, or to hang, each with what must be seen of it.

Words in capitals are filled in by the driver: HOME_FOLDER holds secret.txt, TCP_PORT, UNIX_SOCKET and
ABSTRACT_SOCKET are listened to, PYTHON_TOP is the top folder that Python lies in. What gets out prints ESCAPED.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Attack:
    name: str
    source: str
    seen: str | None = "held"
    """In the output; None: it is ended, by a limit or by itself, and nothing need be seen."""


ATTACKS = (
    Attack(
        name="fork bomb",
        source="""
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
        seen=None,
    ),
    Attack(
        name="number of processes",
        source="""
import os, time
n = 0
try:
    while n < 50:
        if os.fork() == 0:
            time.sleep(60)
        n += 1
except OSError:
    pass
print('held' if n < 4 else 'ESCAPED', n)
""",
        seen="held 3",
    ),
    Attack(
        name="number of threads",
        source="""
import threading, time
n = 0
try:
    while n < 50:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        n += 1
except RuntimeError:
    pass
print('held' if n < 4 else 'ESCAPED', n)
""",
        seen="held 3",
    ),
    Attack(
        name="10 GB allocation",
        source="""
try:
    x = bytearray(10 * 2**30)
    print('ESCAPED')
except MemoryError:
    print('held')
""",
    ),
    Attack(
        name="allocation in small pieces",
        source="""
x = []
try:
    while len(x) < 10_000:
        x.append(bytearray(2**20))
    print('ESCAPED')
except MemoryError:
    n = len(x)
    x = None
    print('held' if n < 512 else 'ESCAPED', n)
""",
    ),
    Attack(
        name="endless loop",
        source="""
while True:
    pass
""",
        seen=None,
    ),
    Attack(
        name="endless sleep",
        source="""
import time
time.sleep(10**6)
""",
        seen=None,
    ),
    Attack(
        name="endless loop in C",
        source="""
print(10**10**8 % 7)
""",
        seen=None,
    ),
    Attack(
        name="ignored signals",
        source="""
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
        seen=None,
    ),
    Attack(
        name="double fork and setsid",
        source="""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:

        time.sleep(600)
    os._exit(0)
print('held')
""",
    ),
    Attack(
        name="stopped process",
        source="""
import os, signal
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
import time
time.sleep(600)
""",
        seen=None,
    ),
    Attack(
        name="kill everything",
        source="""
import os, signal
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
for pid in range(2, 40000):
    try:
        os.kill(pid, signal.SIGKILL)
        print('ESCAPED', pid)
    except OSError:
        pass
print('held')
""",
    ),
    Attack(
        name="/proc",
        source="""
try:
    open('/proc/self/environ').read()
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="mount /proc",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
import os
os.mkdir('/tmp/p')
print('held' if libc.mount(b'p', b'/tmp/p', b'proc', 0, None) else 'ESCAPED')
""",
    ),
    Attack(
        name="environment",
        source="""
import os
print('held' if set(os.environ) <= {'PATH', 'HOME', 'LC_ALL', 'PYTHONHASHSEED', 'PWD'} else 'ESCAPED', dict(os.environ))
""",
    ),
    Attack(
        name="environment of libc",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
p = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')
i = 0
while p[i]:
    print(p[i])
    i += 1
print('held')
""",
    ),
    Attack(
        name="$HOME",
        source="""
try:
    print(open('HOME_FOLDER/secret.txt').read())
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="/etc/passwd",
        source="""
try:
    print(open('/etc/passwd').read())
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="folders of the host",
        source="""
import os
found = set(os.listdir('/')) - {'tmp', 'dev', 'usr', 'lib', 'lib64', 'etc'} - {'PYTHON_TOP'}
print('ESCAPED' if found else 'held', found)
""",
    ),
    Attack(
        name="climb out of the root",
        source="""
import os
os.chdir('/')
for _ in range(50):
    os.chdir('..')
print('ESCAPED' if {'proc', 'home', 'boot'} & set(os.listdir()) - {'PYTHON_TOP'} else 'held')
try:
    os.chroot('/tmp')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="loopback",
        source="""
try:
    import socket; socket.create_connection(('127.0.0.1', TCP_PORT), 1)
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="unix socket",
        source="""
try:
    import socket; socket.socket(socket.AF_UNIX).connect('UNIX_SOCKET')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="abstract unix socket",
        source=r"""
try:
    import socket; socket.socket(socket.AF_UNIX).connect('\0ABSTRACT_SOCKET')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="datagram by a socket pair",
        source=r"""
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
try:
    a.sendto(b'x', '\0ABSTRACT_SOCKET')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="raw system call for a socket",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print('held' if libc.syscall(41, 2, 1, 0) == -1 and libc.syscall(41, 16, 3, 0) == -1 else 'ESCAPED')
""",
    ),
    Attack(
        name="32-bit system call numbers (x32)",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print('held' if libc.syscall(0x40000000 + 41, 2, 1, 0) == -1 else 'ESCAPED')
""",
    ),
    Attack(
        name="name lookup",
        source="""
try:
    import socket; socket.create_connection(('example.com', 80), 1)
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="1 GB in a file",
        source="""
n = 0
try:
    with open('/tmp/big', 'wb', buffering=0) as file:
        while n < 2**30:
            n += file.write(bytes(2**20))
    print('ESCAPED')
except OSError:
    print('held' if n <= 4 * 2**20 else 'ESCAPED', n)
""",
    ),
    Attack(
        name="1 GB in many files",
        source="""
n = 0
try:
    for name in range(1024):
        with open(f'/tmp/{name}', 'wb', buffering=0) as file:
            n += file.write(bytes(2**20))
    print('ESCAPED')
except OSError:
    print('held' if n <= 16 * 2**20 else 'ESCAPED', n)
""",
    ),
    Attack(
        name="10^6 files",
        source="""
n = 0
try:
    for n in range(10**6):
        open(f'/tmp/{n}', 'w').close()
    print('ESCAPED')
except OSError:
    print('held' if n <= 256 else 'ESCAPED', n)
""",
    ),
    Attack(
        name="write elsewhere",
        source="""
import os, sys
opened = []
for folder in ('/', '/usr', '/lib', '/dev', '/etc', sys.prefix, os.path.dirname(os.__file__), '/dev/shm'):
    try:
        open(os.path.join(folder, 'groat-attack'), 'w').close()
        opened.append(folder)
    except OSError:
        pass
print('ESCAPED' if opened else 'held', opened)
""",
    ),
    Attack(
        name="change the standard library",
        source="""
import os
try:
    open(os.__file__, 'a').write('x = 1')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="symlinks",
        source="""
import os
os.symlink('HOME_FOLDER/secret.txt', '/tmp/link')
os.symlink('/proc/1/root', '/tmp/root')
try:
    print(open('/tmp/link').read())
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
print('ESCAPED' if os.path.exists('/tmp/root/etc') else 'held')
""",
    ),
    Attack(
        name="hard links and device files",
        source="""
import os, stat
try:
    os.link('/usr/lib/os-release', '/tmp/x')
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
try:
    os.mknod('/tmp/sda', stat.S_IFBLK | 0o666, os.makedev(254, 0)); open('/tmp/sda', 'rb').read(1)
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="stdout flood",
        source="""
import os
chunk = b'a' * 2**20
n = 0
try:
    while n < 2**30:
        n += os.write(1, chunk)
    ended = 'ESCAPED'
except OSError:
    ended = 'held'
os.ftruncate(1, 0)
os.lseek(1, 0, 0)
print(ended if n <= 4 * 2**20 else 'ESCAPED')
""",
    ),
    Attack(
        name="stderr flood",
        source="""
import os
n = 0
try:
    while n < 2**30:
        n += os.write(2, b'a' * 2**20)
    print('ESCAPED')
except OSError:
    print('held')
""",
    ),
    Attack(
        name="inherited files",
        source="""
import os
found = []
for file in range(3, 5000):
    try:
        os.fstat(file)
        found.append(file)
    except OSError:
        pass
print('ESCAPED' if found else 'held', found)
""",
    ),
    Attack(
        name="its own input",
        source="""
import os
try:
    os.ftruncate(0, 2**20)
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="user namespace",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print('held' if all(libc.unshare(flag) == -1 for flag in (0x10000000, 0x20000, 0x40000000)) else 'ESCAPED')
""",
    ),
    Attack(
        name="clone into a user namespace",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = [
    libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) == -1,
    libc.syscall(435, 0, 0) == -1,
]
print('held' if all(calls) else 'ESCAPED')
""",
    ),
    Attack(
        name="become root",
        source="""
import os
try:
    os.setuid(0)
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
try:
    os.setgroups([0])
    print('ESCAPED')
except BaseException as error:
    print('held', type(error).__name__)
""",
    ),
    Attack(
        name="capabilities",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
assert libc.capget(ctypes.byref(header), ctypes.byref(sets)) == 0
could_get, gains_nothing, filtered = (libc.prctl(n, 21 if n == 23 else 0, 0, 0, 0) for n in (23, 39, 21))
print('held' if not any(sets) and (could_get, gains_nothing, filtered) == (0, 1, 2) else 'ESCAPED')
""",
    ),
    Attack(
        name="raise its limits",
        source="""
import resource
done = []
for name in ('AS', 'NPROC', 'FSIZE', 'CPU', 'NOFILE'):
    try:
        resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (2**40, 2**40))
        done.append(name)
    except (ValueError, OSError):
        pass
print('ESCAPED' if done else 'held', done)
""",
    ),
    Attack(
        name="memory outside of the address space",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = [
    libc.shmget(0, 2**30, 0o1600) == -1,
    libc.syscall(319, b'x', 0) == -1,
    libc.syscall(447, 0) == -1,
]
print('held' if all(calls) else 'ESCAPED')
""",
    ),
    Attack(
        name="look into other processes",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
calls = [
    libc.ptrace(16, 2, 0, 0) == -1,
    libc.syscall(310, 2, 0, 0, 0, 0, 0) == -1,
    libc.syscall(434, 2, 0) == -1,
]
print('held' if all(calls) else 'ESCAPED')
""",
    ),
    Attack(
        name="kernel interfaces",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
numbers = (321, 298, 425, 323, 250, 246, 165, 175, 155)
print('held' if all(libc.syscall(n, 0, 0, 0, 0, 0) == -1 for n in numbers) else 'ESCAPED')
""",
    ),
    Attack(
        name="what earlier programs left",
        source="""
import os
print('held' if os.listdir('/tmp') == [] and os.getcwd() == '/tmp' else 'ESCAPED', os.listdir('/tmp'))
""",
    ),
    Attack(
        name="deep recursion",
        source="""
import sys
sys.setrecursionlimit(10**9)
def f():
    f()
f()
""",
        seen=None,
    ),
    Attack(
        name="crash",
        source="""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.abort()
""",
        seen=None,
    ),
    Attack(
        name="a pipe full of open files",
        source="""
import os
n = 0
try:
    while n < 10_000:
        os.pipe()
        n += 1
    print('ESCAPED')
except OSError:
    print('held')
""",
    ),
)
