"""The writer as a child of the recorder: a message that kills it costs nothing but its own columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ether import clock
from ether.journal import Journal
from ether.recorder.entries import Kind, head, note
from ether.recorder.ingest import WriterProcess
from ether.recorder.verify import verify

DEADLY = """
import os
from ether import codecs, process
real = codecs.decode
def decode(payload):
    if b"deadly" in payload:
        os.kill(os.getpid(), 9)
    return real(payload)
codecs.decode = decode
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
