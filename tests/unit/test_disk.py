"""What is left of the recording's disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ether.recorder.disk import Disk, trouble


class Shrinking:
    """A disk whose free space is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 0
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=self.free))


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Shrinking:
    return Shrinking(monkeypatch)


def test_forecast_follows_the_rate_of_the_last_ten_minutes(space: Shrinking, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "not" / "there yet", reserve=10**9)
    for second in range(1200):  # nothing for ten minutes, then 1 MB/s
        space.free = 5 * 10**9 - max(0, second - 600) * 10**6
        disk.look(second)

    assert disk.rate == pytest.approx(1e6, rel=0.01)
    assert disk.seconds_left == pytest.approx((5e9 - 600e6 - 1e9) / 1e6, rel=0.01)


def test_nothing_is_foretold_from_the_first_minute(space: Shrinking, tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for second in range(59):
        space.free = 10**10 - second * 10**8
        disk.look(second)

    assert (disk.rate, disk.seconds_left, disk.warning()) == (0.0, None, "")


def test_a_disk_that_will_be_full_within_an_hour_is_told(space: Shrinking, tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for second in range(121):
        space.free = 10**10 - second * 10**7
        disk.look(second)

    assert disk.warning() == f"{tmp_path}: 8.8 GB free, full in 15 min at 10 MB/s"


def test_an_alarm_neither_comes_nor_goes_with_every_byte(space: Shrinking, tmp_path: Path) -> None:
    disk = Disk(tmp_path, reserve=1000)
    found = []
    for second, free in enumerate([3000, 1999, 2001, 2399, 2401, 1001, 999, 1001, 1199, 1201]):
        space.free = free
        disk.look(second / 100)
        found.append((bool(disk.warning()), disk.full))

    assert found == [
        (False, False), (True, False), (True, False), (True, False), (False, False),
        (True, False), (True, True), (True, True), (True, True), (True, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "x"), os.strerror(errno.ENOSPC)),
        (OSError(errno.EACCES, "x"), ""),
        (OSError("Can't write (file write failed: …, errno = 28, error message = …)"), os.strerror(errno.ENOSPC)),
        (RuntimeError("Can't flush cache (…, errno = 5, error message = …)"), os.strerror(errno.EIO)),
        (RuntimeError("Unable to flush file"), ""),
    ],
    ids=["full", "not allowed", "full, by HDF5", "failing, by HDF5", "nothing of a disk"],
)
def test_what_the_disk_did_is_told_from_the_rest(error: OSError | RuntimeError, told: str) -> None:
    assert trouble(error) == told
