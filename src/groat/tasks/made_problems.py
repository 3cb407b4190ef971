"""Training problems that are made when they are asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import overload

from groat.types import Problem


class MadeProblems(Sequence[Problem]):
    """`length` problems, of which nothing is kept."""

    length: int

    @abstractmethod
    def made(self, position: int) -> Problem:
        """The problem at a position from 0 on, the same each time."""

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self.made(position) for position in range(self.length)[index]]
        return self.made(range(self.length)[index])
