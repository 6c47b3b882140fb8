"""The disk that a recording goes to: what is left of it, for how long, and which errors are its."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import deque
from pathlib import Path

from ether import clock

__all__ = ["Disk", "demand", "trouble"]

_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_TOLD_BY_HDF5 = re.compile(r"\berrno = (\d+)")

_SAMPLE_S = 2.0
_WINDOW_S = 600.0
_WATCHED_S = 60.0
"""No forecast before: the first segments of a journal are taken at once, and say nothing."""
_SOON_S = 3600.0
_AGAIN = 1.2
"""What was too little is enough again with so much more: an alarm must not come and go."""


class Disk:
    """Free space of a disk, how fast it shrinks, and whether that will do.

    Args:
        folder: on that disk; need not exist yet.
        reserve: bytes that are to stay free.
    """

    def __init__(self, folder: Path, reserve: int = 0) -> None:
        self.folder = folder
        self.reserve = reserve
        self.free = 0
        self.full = False
        """Less than the reserve is free."""
        self._samples: deque[tuple[float, int]] = deque()
        self._warned = False

    def look(self, now: float | None = None) -> None:
        """Measure; `now` is on the monotonic clock."""
        now = clock.monotonic() if now is None else now
        self.free = shutil.disk_usage(next(each for each in (self.folder, *self.folder.parents) if each.exists())).free
        self.full = self.free < self.reserve * (_AGAIN if self.full else 1.0)
        if not self._samples or now - self._samples[-1][0] >= _SAMPLE_S:
            self._samples.append((now, self.free))
        while self._samples[-1][0] - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes a second by which the free space has shrunk over the last minutes; 0.0 where it has not, or unknown."""
        if not self._samples:
            return 0.0
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return max(0.0, (first - last) / (end - begin)) if end - begin >= _WATCHED_S else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the disk will do at this rate; None where nothing can be said."""
        return max(0, self.free - self.reserve) / self.rate if self.rate else None

    def warning(self) -> str:
        """Return what is to be told in one line: that the disk is full or soon will be; empty where all is well."""
        if self.full:
            self._warned = True
            return (
                f"{self.folder}: {_size(self.free)} free, {_size(self.reserve)} are kept as a reserve: nothing is "
                "stored until there is room again; publishers keep what they have"
            )
        more = _AGAIN if self._warned else 1.0
        left = self.seconds_left
        soon = left is not None and left < _SOON_S * more
        self._warned = soon or self.free < 2 * self.reserve * more
        if not self._warned:
            return ""
        when = f", full in {_duration(left)} at {_size(self.rate)}/s" if left is not None else ""
        return f"{self.folder}: {_size(self.free)} free{when}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            break
        count, unit = count / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{count:.3g} {unit}"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def trouble(exc: OSError | RuntimeError) -> str:
    """Return in a few words what an error tells of a disk that takes nothing; empty where it tells of something else.

    What HDF5 had in its cache and could not write any more is a RuntimeError, with the number in its text.
    """
    number = getattr(exc, "errno", None)
    if number is None and (told := _TOLD_BY_HDF5.search(str(exc))):
        number = int(told[1])
    return os.strerror(number) if number in _TROUBLE else ""


def demand(folder: Path, size: int) -> None:
    """Raise the OSError of a full disk where so many bytes do not fit: HDF5 crashes whoever runs out of room."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
