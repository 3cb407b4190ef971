"""Compiles the C++ sources beside it for this machine, once; without a C++ compiler torch computes the same, slower."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from groat.caches import cache_folder

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
_COMPILERS = ("g++", "c++", "clang++")
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The compiled library, or why there is none."""

    library: Path | None
    reason: str


def build_library() -> Built:
    """Compile all sources (a few seconds) unless the cache holds the library for them, this compiler and this CPU."""
    if platform.system() != "Linux":
        return Built(library=None, reason=f"the kernels are built on Linux only, this is {platform.system()}")
    compiler = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        return Built(library=None, reason="no C++ compiler found (looked for " + ", ".join(_COMPILERS) + ")")
    library = cache_folder("kernels") / f"native-{_fingerprint(compiler)}.so"
    if library.is_file():
        return Built(library=library, reason=f"compiled by {compiler}")
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _compile(compiler, library)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Built(library=None, reason=f"{compiler} could not build the kernels: {error}")


def _compile(compiler: str, library: Path) -> Built:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *_FLAGS, *(str(source) for source in _sources(".cpp")), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_SECONDS)
        if done.returncode:
            complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            return Built(library=None, reason=f"{compiler} could not build the kernels: {complaint.strip()}")
        # Moved whole: another process sees all of it or nothing.
        os.replace(made, library)  # noqa: PTH105
    return Built(library=library, reason=f"compiled by {compiler}")


def _fingerprint(compiler: str) -> str:
    """What the library depends on: sources, flags, compiler, and the CPU it is compiled for."""
    stat = Path(compiler).resolve().stat()
    parts = [*_FLAGS, compiler, str(stat.st_size), str(stat.st_mtime_ns), _cpu()]
    sources = b"\0".join(source.read_bytes() for source in _sources(".cpp", ".h"))
    return hashlib.sha256(sources + "\0".join(parts).encode()).hexdigest()[:16]


def _sources(*suffixes: str) -> list[Path]:
    """Files of these kinds beside this one, in a fixed order."""
    return sorted(path for path in _FOLDER.iterdir() if path.suffix in suffixes)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = ("vendor_id", "cpu family", "model\t", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(named)})) or platform.processor()
