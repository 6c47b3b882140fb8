"""A module that knows nothing of ether, as a vendor would write it."""

from __future__ import annotations

import collections
from typing import Any


class Thermometer:
    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.targets: list[float] = []

    def read(self) -> dict[str, float]:
        return {"celsius": 20.0 + self.offset}

    def set_target(self, celsius: float) -> None:
        self.targets.append(celsius)

    def targets_so_far(self) -> list[float]:
        return self.targets

    def prepare(self) -> None:
        self.offset += 1.0

    @staticmethod
    def helper() -> None: ...


class Stack(list):  # type: ignore[type-arg]  # a class whose methods are written in C
    """Has ``append``, ``pop`` and ``count``, written in C."""

    def items(self) -> list[Any]:
        return list(self)


Queue = collections.deque
