"""How the box around sandboxed programs is made on this machine: by bubblewrap, or by our own process."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Builder = Literal["bubblewrap", "namespaces"]

_INSIDE = Path(__file__).parent / "inside"
_INSIDE_THE_BOX = "/etc/groat"
"""Where bubblewrap shows it: no folder that groat lies in is seen."""
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}
"""All that programs see. A fixed hash seed: the same program gets the same verdict."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """`packages` are folders that programs may import from besides Python's standard library."""

    builder: Builder
    python: Path = field(default_factory=lambda: Path(sys.executable).resolve())
    packages: tuple[Path, ...] = ()

    def command(self, control: int, proc: int) -> list[str]:
        """`control` and `proc` are files that it inherits: its socket to us, and /proc."""
        readable = list(self._readable())
        settings = {
            "control": control,
            "proc": proc,
            "readable": [*readable, *_DEVICES] if self.builder == "namespaces" else None,
            "packages": [str(folder) for folder in self.packages],
        }
        python = [str(self.python), "-s", "-S", "-P", "-B"]
        if self.builder == "namespaces":
            return [*python, str(_INSIDE), json.dumps(settings)]
        return [*_bubblewrap(readable), *python, _INSIDE_THE_BOX, json.dumps(settings)]

    def _readable(self) -> Iterator[str]:
        """What is there of it; no path lies in another."""
        paths = {*_LIBRARIES, str(Path(sys.base_prefix).resolve() / "lib"), *map(str, self.packages)}
        if self.builder == "bubblewrap":  # Python is started inside
            paths.add(str(self.python))
        for path in sorted(paths):
            if Path(path).exists() and not any(other != path and Path(path).is_relative_to(other) for other in paths):
                yield path


def available_builders() -> list[Builder]:
    """The one to try first comes first."""
    return ["bubblewrap", "namespaces"] if shutil.which("bwrap") else ["namespaces"]


def _bubblewrap(readable: Sequence[str]) -> list[str]:
    arguments = ["bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # Root builds the box without one, and is left by our own process, which becomes nobody.
    arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if os.geteuid() == 0 else ["--unshare-user"]
    arguments += ["--as-pid-1"]
    for path in (*readable, *_DEVICES):
        for parent in reversed(Path(path).parents[:-1]):  # otherwise bubblewrap makes them for root alone
            arguments += ["--dir", str(parent)]
        arguments += ["--dev-bind" if path in _DEVICES else "--ro-bind", path, path]
    arguments += ["--dir", "/etc", "--ro-bind", str(_INSIDE), _INSIDE_THE_BOX]
    return [*arguments, "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", "--"]
