"""What a sandboxed program may use."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For one program with all processes that it starts, where nothing else is said."""

    seconds: float = 4.0
    """From start to end; a program that is late is ended."""
    cpu_seconds: int = 4
    """Of each process."""
    memory_bytes: int = 512 * MIB
    """Addresses of each process, some 30 MiB of which Python takes."""
    processes: int = 4
    """Threads count too."""
    open_files: int = 32
    file_bytes: int = 4 * MIB
    """Of each file, and of what is printed."""
    folder_bytes: int = 16 * MIB
    """All files in its own folder, /tmp, together; it can write nowhere else."""
    folder_files: int = 256

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"sandbox limit {name} must be above 0, got {getattr(self, name)}")
