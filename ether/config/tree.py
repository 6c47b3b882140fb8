"""Tree: the values of a configuration before they are checked, and where each stands."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

from ether.errors import Problem

__all__ = ["KeyPath", "PathPart", "Place", "Tree", "dotted"]

PathPart: TypeAlias = str | int
KeyPath: TypeAlias = tuple[Any, ...]
"""Keys and list indices from the top of the configuration; keys below ``kwargs`` may be any scalar."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value stand."""

    key: str
    """``file:line:column`` of the key; of the item in a list."""
    value: str
    order: int
    """Rank in the file."""


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


class Tree:
    """The values of a configuration before they are checked, and where each stands."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.text = ""
        self.data: Any = {}
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[tuple[int, Problem]] = []
        self.secrets: set[tuple[int, int, str]] = set()
        """Spans of `text` that hold a secret, and what to print instead."""

    def real(self, path: KeyPath) -> KeyPath:
        """Return the path as the user wrote it: without the index 0 of a mapping that was read as a list of one."""
        found: list[Any] = []
        here: Any = self.data
        for part in path:
            if isinstance(here, list) and isinstance(part, int):
                here = here[part] if part < len(here) else None
            elif isinstance(here, dict) and part in here:
                here = here[part]
            elif isinstance(part, int):
                continue
            else:
                here = None
            found.append(part)
        return tuple(found)

    def place(self, path: KeyPath) -> Place | None:
        """Return where this key or its nearest known ancestor stands."""
        path = self.real(path)
        for length in range(len(path), 0, -1):
            if (place := self.places.get(path[:length])) is not None:
                return place if length == len(path) else Place(place.key, place.key, place.order)
        return None

    def problem(self, path: KeyPath, what: str, *, at_value: bool = False) -> Problem:
        place, name = self.place(path), dotted(self.real(path))
        if place is None and not self.file:
            return Problem(name or "configuration", what)
        where = self.file if place is None else place.value if at_value else place.key
        return Problem(where, f"{name}: {what}" if name else what)

    def report(self, path: KeyPath, what: str, *, at_value: bool = False) -> None:
        self.problems.append((self.rank(path), self.problem(path, what, at_value=at_value)))

    def rank(self, path: KeyPath) -> int:
        """Return where this key stands in the order of the file."""
        place = self.place(path)
        return place.order if place else -1

    def sorted_problems(self) -> list[Problem]:
        """Return all problems in the order of the file, each once."""
        return list(dict.fromkeys(problem for _, problem in sorted(self.problems, key=lambda pair: pair[0])))
