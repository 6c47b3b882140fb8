"""Parts of a recording: their names, and where a recorder goes on when the parts before are sealed.

``growth.h5`` is the first, then come ``growth.part-0002.h5``, ``growth.part-0003.h5`` … beside it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ether.errors import JournalError
from ether.journal import sync_directory

__all__ = ["Part", "Resume", "first_of", "is_taken", "part_path", "parts_of"]

_NAME = re.compile(r"(.+)\.part-(\d{4,})\Z")
_RESUME = "resume.json"


def part_path(first: Path, number: int) -> Path:
    """Return the file of a part, counted from 1, of the recording that begins with `first`."""
    return first if number == 1 else first.with_name(f"{first.stem}.part-{number:04d}{first.suffix}")


def first_of(path: Path) -> Path:
    """Return the file that the recording of this part begins with."""
    found = _NAME.match(path.stem)
    return path.with_name(found.group(1) + path.suffix) if found else path


def parts_of(first: Path) -> dict[int, Path]:
    """Return the parts that are there by their numbers, ascending."""
    found = {1: first} if first.exists() else {}
    pattern = re.compile(rf"{re.escape(first.stem)}\.part-(\d{{4,}}){re.escape(first.suffix)}\Z")
    for path in first.parent.iterdir() if first.parent.is_dir() else ():
        if named := pattern.match(path.name):
            found[int(named.group(1))] = path
    return dict(sorted(found.items()))


def is_taken(first: Path) -> bool:
    """Return whether there is a recording of this name, or a part of one."""
    return bool(parts_of(first))


class Part(NamedTuple):
    """A part that was written to its end, and is to be sealed."""

    number: int
    work: Path
    target: Path
    start: int
    """Number of its first record in the journal."""
    end: int | None
    """Number of the first record behind it; None for the last part."""
    messages: int
    damage: list[str]
    """What could not be read from the journal."""
    carry: dict[str, Any] | None
    """What the next part takes over; None for the last part."""
    state: str
    """What it is once it is sealed: ``sealed`` or ``recovered``."""

    def following(self) -> Resume:
        """Return where the next part begins, whose chain is closed when this one is sealed."""
        assert self.end is not None
        assert self.carry is not None
        return Resume(self.number + 1, self.end, carry=json.loads(json.dumps(self.carry)))

    def as_orders(self) -> dict[str, Any]:
        return {**self._asdict(), "work": str(self.work), "target": str(self.target)}

    @classmethod
    def of_orders(cls, given: dict[str, Any]) -> Part:
        known = {name: given[name] for name in cls._fields}
        return cls(**{**known, "work": Path(given["work"]), "target": Path(given["target"])})


@dataclass(frozen=True, slots=True)
class Resume:
    """Where the first part begins that is not sealed, kept in the journal's folder: what is before may be dropped."""

    part: int = 1
    start: int = 0
    """Number of its first record in the journal."""
    previous_sha256: str = ""
    """`content_sha256` of the part before."""
    carry: dict[str, Any] = field(default_factory=dict)
    """What it takes over from the parts before; see `Builder.carry`."""

    @classmethod
    def load(cls, journal: Path) -> Resume:
        path = journal / _RESUME
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError) as exc:
            raise JournalError(errno.EINVAL, f"{path}: damaged ({exc})") from exc

    def save(self, journal: Path) -> None:
        """Keep it, in one step that survives a power cut."""
        temporary = journal / f"{_RESUME}.new"
        with open(temporary, "w") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(journal / _RESUME)
        sync_directory(journal)
