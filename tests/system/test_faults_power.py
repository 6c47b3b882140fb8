"""Power cuts at random moments, and recovery that is itself killed: what was acknowledged is in the recording."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from power import WriteLog, killed_at, python, strace, traced

from ether import codecs
from ether.model import Envelope
from ether.outbox import Outbox, outbox_folder
from ether.recorder.entries import journal_folder
from ether.recorder.reader import open_recording
from ether.recorder.recovery import recover
from ether.recorder.verify import verify

CUTS = int(os.environ.get("SOAK_ROUNDS", "0")) or 5
"""Of each part of a recorder's life."""

pytestmark = pytest.mark.timeout(1800 if CUTS > 5 else 120)
if strace() is None and os.environ.get("ETHER_TEST_REQUIRE_ALL") != "1":
    pytest.skip("STRACE IS NOT INSTALLED: no power cuts are simulated", allow_module_level=True)

RECORDER = """
import os, sys, threading, time
from pathlib import Path
from ether import codecs
from ether.journal import Journal
from ether.model import Envelope, Message
from ether.mqtt import Receipt
from ether.recorder.entries import Kind, journal_folder
from ether.recorder.ingest import Ingest, WriterProcess

file, count = Path(sys.argv[1]), int(sys.argv[2])
acknowledged = threading.Semaphore(0)
def acknowledge(receipts):
    os.write(1, b"acknowledged %d\\n" % max(receipt.packet_id for receipt in receipts))
    acknowledged.release()
ingest = Ingest(wanted=["#"], exclude=[], acknowledge=acknowledge, confirm=lambda *_: None, stop=lambda: None)
folder = journal_folder(file)
with Journal(folder, segment_bytes=60_000, replay=ingest.replayed) as journal:
    ingest.start(journal)
    ingest.write(Kind.SESSION, {"session": {"id": "s1", "name": "power"}})
    writer = WriterProcess(file, folder, ingest.write)
    writer.start()
    for number in range(1, count + 1):
        payload = codecs.encode({"n": number, "pad": "x" * (number * 37 % 900)}, Envelope("oven", "b1", number - 1, 1.0))
        ingest.take(Message("lab/oven", payload, 1), Receipt(number, 1, 1))
        if number % 20 == 0:
            acknowledged.acquire()
        if number == count // 2:
            while not file.exists():
                time.sleep(0.01)
    os.write(1, b"ending\\n")
    ingest.close("stop", 30)
    while not writer.watch():
        time.sleep(0.01)
"""


def check(file: Path, acknowledged: int) -> None:
    """Recover what is left; everything acknowledged must come of it, and nothing twice."""
    if file.exists():
        h5py.File(file).close()
    try:
        recover(file)
        assert not recover(file).made
        if not acknowledged and not file.exists():
            return
        report = verify(file)
        assert report.damage == []
        with open_recording(file) as recording:
            numbers = (recording["lab/oven"]["n"] if "lab/oven" in recording else np.empty(0, int)).tolist()
            assert numbers[:acknowledged] == list(range(1, acknowledged + 1))
            assert numbers == sorted(set(numbers))
    finally:
        shutil.rmtree(file.parent)


def _near(moment: int, moments: list[int], rng: random.Random) -> int:
    """Return a moment right at another one, or one of the few before and after it."""
    place = moments.index(moment) + rng.randint(-3, 3)
    return moments[min(max(place, 0), len(moments) - 1)]


def test_after_a_power_cut_at_any_moment_everything_acknowledged_is_recovered(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = traced(python(RECORDER, str(disk / "power.h5"), "400"), tmp_path / "log")
    assert done.returncode == 0, done.stderr
    log = WriteLog(tmp_path / "log", disk)
    (ending,) = [moment for moment, line in log.said if line == "ending"]
    rng = random.Random(7)
    moments = [rng.choice([each for each in log.moments if each < ending]) for _ in range(CUTS)]
    moments += [rng.choice([each for each in log.moments if each >= ending]) for _ in range(CUTS)]
    names = [(moment, name, file) for moment, group in log.links for _, name, file in group]
    dropping = [moment for moment, _, file in names if moment > ending and file is None]
    rolling = [moment for moment, name, file in names if name.endswith(".etj") and file and moment < ending]
    publishing = [moment for moment, name, file in names if name == "power.h5" and file]
    assert len(rolling) > 2
    assert len(publishing) > 1
    moments += [rng.choice(dropping) for _ in range(CUTS)]
    for turning in (rolling, publishing):
        moments += [_near(rng.choice(turning), log.moments, rng) for _ in range(CUTS if CUTS > 5 else 3)]

    for number, moment in enumerate(moments):
        left = tmp_path / f"cut-{number}"
        left.mkdir()
        log.cut(moment, rng, left)
        told = [int(line.split()[1]) for when, line in log.said if when <= moment and line.startswith("ack")]
        check(left / "power.h5", max(told, default=0))


RECOVER = (
    "import sys; from pathlib import Path; from ether.recorder.recovery import recover; recover(Path(sys.argv[1]))"
)


def test_recovery_killed_at_any_point_can_be_run_again(tmp_path: Path) -> None:
    file = tmp_path / "disk" / "power.h5"
    file.parent.mkdir()
    die = RECORDER.replace('os.write(1, b"ending\\n")', "os._exit(0)")
    assert die != RECORDER
    traced(python(die, str(file), "200"), tmp_path / "log")
    outbox = Outbox(outbox_folder(file, "oven") / "b1", limit=100_000)  # of a publisher that was killed, too
    for number in range(180, 231):
        payload = codecs.encode({"n": number}, Envelope("oven", "b1", number - 1, 1.0))
        outbox.keep("lab/oven", number - 1, 1, payload)
    outbox.close(remove=False)
    rng = random.Random(8)
    kept = shutil.copytree(file.parent, tmp_path / "kept")
    ends = []
    for _ in range(CUTS if CUTS > 5 else 4):
        call, most = rng.choice(
            [
                ("pwrite64", 60),
                ("fsync", 3),
                ("unlinkat", 12),
                ("unlinkat", 12),
                ("rename", 2),
                ("ftruncate", 3),
                ("write", 4),
            ]
        )
        ends.append(killed_at(python(RECOVER, str(file)), call, rng.randint(1, most)))
        if not journal_folder(file).exists():  # it had done its work; the next one begins anew
            check(file, 230)
            shutil.copytree(kept, file.parent)

    assert any(ends)
    check(file, 230)
