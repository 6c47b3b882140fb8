"""What a writer leaves behind when it dies: what it was working on, and that it is gone."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import IO

from ether.errors import JournalError
from ether.journal import hold as hold_journal

__all__ = ["DISK_TROUBLE", "SEALER", "WRITER", "Marker", "hold", "settle"]

WRITER, SEALER = "writer.lock", "sealer.lock"
"""Files in the journal's folder, each held by the process that is at work."""
DISK_TROUBLE = 4
"""Exit code of a writer that the disk kept from writing: no message is to blame for its death."""


class Marker:
    """Which messages are being worked on, in a file that survives our death: how a deadly message is found."""

    _FORMAT = struct.Struct("<QQ")
    _NONE = (1 << 64) - 1

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != self._FORMAT.size:
            path.write_bytes(self._FORMAT.pack(self._NONE, self._NONE))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), self._FORMAT.size)

    def set(self, first: int, last: int) -> None:
        self._FORMAT.pack_into(self._map, 0, first, last)

    def clear(self) -> None:
        self.set(self._NONE, self._NONE)

    @classmethod
    def read(cls, path: Path) -> tuple[int, int] | None:
        """Return the first and last record number worked on at the writer's death; None where it was idle."""
        try:
            first, last = cls._FORMAT.unpack(path.read_bytes())
        except (OSError, struct.error):
            return None
        return None if first == cls._NONE else (first, last)


def settle(journal: Path) -> None:
    """Return when writer and sealer of a recorder that was killed have ended.

    An orphan ends at once, but it may be in the middle of dropping a journal.
    """
    for name in (WRITER, SEALER):
        if (held := hold(journal, name)) is not None:
            held.close()


def hold(journal: Path, name: str, timeout: float = 5.0) -> IO[bytes] | None:
    """Hold the lock of this name until the returned file is closed or we die; waits for whoever holds it.

    Returns:
        None where it could not be had in time, where there is no journal, or on a system without such locks.
    """
    try:
        return hold_journal(journal, name, timeout)
    except (FileNotFoundError, JournalError):
        return None
