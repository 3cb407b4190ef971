"""What a sandboxed program may use."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """For one program with all processes that it starts, where nothing else is said."""

    seconds: float = 4.0
    """From start to end; a program that is late is ended."""
    cpu_seconds: int | None = None
    """Of each process; None: more than `seconds`. The clock ends a program that does not end, and says so, before the
    limit on its CPU time does without a word."""
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
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"sandbox limit {name} must be above 0, got {value}")

    def resolved(self) -> dict[str, float]:
        """All limits by name, as numbers."""
        behind_the_clock = math.ceil(self.seconds) + 1
        return {**asdict(self), "cpu_seconds": self.cpu_seconds or behind_the_clock}
