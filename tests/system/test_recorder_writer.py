"""The writer as a child of the recorder: a message that kills it costs nothing but its own columns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_parts import wait_until

from ether import clock
from ether.journal import Journal
from ether.recorder.entries import Kind, head, note
from ether.recorder.ingest import WriterProcess
from ether.recorder.verify import verify

DEADLY = """
import os
from ether import codecs
real = codecs.parsed
def parsed(payload):
    if b"deadly" in payload:
        os.kill(os.getpid(), 9)
    return real(payload)
codecs.parsed = parsed
from ether.recorder.writer import main
"""

FULL = """
import errno, pathlib
from ether import codecs
real = codecs.parsed
def parsed(payload):
    if b"deadly" in payload and not pathlib.Path("room").exists():
        raise OSError(errno.ENOSPC, "No space left on device")
    return real(payload)
codecs.parsed = parsed
from ether.recorder.writer import main
"""


def test_a_message_that_kills_the_writer_three_times_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly_writer.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(WriterProcess, "module", "deadly_writer")
    file, folder = tmp_path / "r.h5", tmp_path / ".r.journal"
    alarms: list[str] = []
    with Journal(folder) as journal:

        def append(kind: Kind, content: Any) -> None:
            journal.append(*note(kind, content))
            journal.commit()

        for number, payload in enumerate([b'{"a": 1}', b'{"a": "deadly"}', b'{"a": 3}']):
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), payload)
        journal.commit()
        writer = WriterProcess(file, folder, append, alarms.append)
        deadline = clock.monotonic() + 40
        ended = False
        told = False
        while not ended:
            assert clock.monotonic() < deadline
            ended = writer.watch()
            if writer.raw_only and not told:
                told = True
                append(Kind.END, {"reason": "stop"})
    assert writer.raw_only == {1}
    report = verify(file)
    assert (report.complete, report.messages, report.undecoded) == (True, 3, 1)
    assert "keeps dying" in alarms[0]


@pytest.mark.parametrize("size", ["1056k", "1250k"])
def test_a_writer_without_room_says_so_and_finishes_once_there_is_some(
    size: str, mount_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """HDF5 crashes an interpreter that exits with what a full disk did not take; and that is no message's fault."""
    disk = mount_disk(size)
    notes: list[tuple[Kind, Any]] = []
    with Journal(disk / ".r.journal", segment_bytes=1 << 20) as journal:
        for number in range(100):
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), b'"%s"' % (b"x" * 100))
            journal.commit()
        journal.append(*note(Kind.END, {"reason": "stop", "connected": True}))
        journal.commit()
        writer = WriterProcess(disk / "r.h5", disk / ".r.journal", lambda kind, content: notes.append((kind, content)))
        wait_until(lambda: writer.watch() or len(notes) == 2, "two attempts")
        assert all("exit code 4" in content["message"] for _, content in notes), notes
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        wait_until(writer.watch, "the end")
    assert "No space left on device" in capfd.readouterr().err
    assert (verify(disk / "r.h5").complete, verify(disk / "r.h5").messages) == (True, 100)


def test_no_message_is_blamed_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full_writer.py").write_text(FULL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WriterProcess, "module", "full_writer")
    notes: list[Kind] = []
    with Journal(tmp_path / ".r.journal") as journal:
        for number, payload in enumerate([b'{"a": 1}', b'{"a": "deadly"}', b'{"a": 3}']):
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), payload)
        journal.append(*note(Kind.END, {"reason": "stop", "connected": True}))
        journal.commit()
        writer = WriterProcess(tmp_path / "r.h5", tmp_path / ".r.journal", lambda kind, _content: notes.append(kind))
        attempts = 2 * WriterProcess.DEADLY + 1  # every other one finds out which message it was
        wait_until(lambda: writer.watch() or writer.deaths == attempts, f"{attempts} attempts")
        (tmp_path / "room").touch()
        wait_until(writer.watch, "the end")
    report = verify(tmp_path / "r.h5")
    assert (report.complete, report.messages, report.undecoded, set(notes)) == (True, 3, 0, {Kind.EVENT})
