"""The journal: what is committed comes back, whatever happened to the file or the process."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from ether import journal as journal_module
from ether.errors import JournalError
from ether.journal import Journal, JournalReader, Record


def bodies(folder: Path) -> list[bytes]:
    with JournalReader(folder) as reader:
        return [record.body for record in reader]


def fill(folder: Path, count: int, *, size: int = 40, commit_every: int = 7, **options: int) -> list[bytes]:
    """Write `count` records of varied length in small commits; return their bodies."""
    written = []
    with Journal(folder, **options) as journal:
        for number in range(count):
            body = b"%06d " % number + bytes(random.Random(number).randbytes(number % size))
            journal.append(body[:3], body[3:])
            written.append(body)
            if number % commit_every == commit_every - 1:
                journal.commit()
        journal.commit()
    return written


def only_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.etj")
    return path


def test_committed_records_come_back_in_order(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 500)

    assert bodies(tmp_path / "j") == written


def test_numbers_go_on_after_reopening(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 10)
    replayed: list[Record] = []

    with Journal(tmp_path / "j", replay=replayed.append) as journal:
        assert [record.body for record in replayed] == written
        assert journal.append(b"next") == 10
        assert journal.durable == 10
        assert journal.commit() == 11

    assert bodies(tmp_path / "j") == [*written, b"next"]


def test_empty_and_large_records(tmp_path: Path) -> None:
    large = os.urandom(3 << 20)
    with Journal(tmp_path / "j", segment_bytes=1 << 20) as journal:
        for body in (b"", large, b"", large, b"end"):
            journal.append(b"", body)
        journal.commit()

    assert bodies(tmp_path / "j") == [b"", large, b"", large, b"end"]


def test_rolls_into_new_segments_and_drops_old_ones(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 3000, size=2000, commit_every=100, segment_bytes=1 << 20)
    with Journal(tmp_path / "j", segment_bytes=1 << 20) as journal:
        segments = len(list((tmp_path / "j").glob("*.etj")))
        dropped = journal.drop(before=2500)

    assert segments >= 3
    assert dropped >= 1
    left = bodies(tmp_path / "j")
    assert left == written[-len(left) :]
    assert len(left) >= 500


def test_uncommitted_records_are_not_promised(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(b"one")
        journal.commit()
        journal.append(b"two")

    assert bodies(tmp_path / "j") == [b"one"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(JournalError, match="another process writes this journal"):
        Journal(tmp_path / "j")


def test_a_journal_is_free_once_its_writer_which_was_killed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, flock = Journal(tmp_path / "j"), fcntl.flock

    def flock_of_a_dying_writer(file: Any, operation: int) -> None:
        try:
            flock(file, operation)
        except BlockingIOError:
            first.close()  # what was killed lets go of it now
            raise

    monkeypatch.setattr(fcntl, "flock", flock_of_a_dying_writer)

    with Journal(tmp_path / "j") as second:
        second.append(b"one")
        second.commit()
    assert bodies(tmp_path / "j") == [b"one"]


def test_a_missing_journal_has_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such journal"):
        JournalReader(tmp_path / "nowhere").read()


@pytest.mark.parametrize(("version", "age"), [(1, "an earlier"), (99, "a later")])
def test_a_journal_of_another_version_is_left_as_it_is(tmp_path: Path, version: int, age: str) -> None:
    fill(tmp_path / "j", 10)
    segment = only_segment(tmp_path / "j")
    header = b"ETHERJNL" + struct.pack("<IIQ", version, 1, 0)
    content = header + struct.pack("<I", zlib.crc32(header)) + b"ETJ1" + os.urandom(100)
    segment.write_bytes(content)

    line = f"000001.etj: a journal of version {version}; this ether reads 2, recover it with {age} one"
    with pytest.raises(JournalError, match=line):
        Journal(tmp_path / "j")
    with JournalReader(tmp_path / "j") as reader, pytest.raises(JournalError, match=line):
        reader.read()

    assert [path.read_bytes() for path in (tmp_path / "j").iterdir() if path.name != "lock"] == [content]


def test_a_torn_write_at_every_byte_of_the_last_4_kib_loses_only_what_is_torn(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 110)
    segment = only_segment(tmp_path / "j")
    whole = segment.read_bytes()
    ends, position = [], 0
    with JournalReader(tmp_path / "j") as reader:
        while reader.read(limit=1):
            ends.append(reader.end[1])
    position = ends[-1]

    for cut in range(position - 4096, position):
        segment.write_bytes(whole[:cut] + bytes(64))
        expected = written[: sum(end <= cut for end in ends)]
        assert bodies(tmp_path / "j") == expected, cut
        if cut % 101 == 0:
            shutil.copytree(tmp_path / "j", tmp_path / "copy")
            with Journal(tmp_path / "copy") as journal:
                assert journal.recovery.damage == []
                journal.append(b"after")
                journal.commit()
            assert bodies(tmp_path / "copy") == [*expected, b"after"]
            shutil.rmtree(tmp_path / "copy")


def test_a_torn_tail_is_cut_and_kept_aside(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 20)
    segment = only_segment(tmp_path / "j")
    segment.write_bytes(segment.read_bytes() + b"ETJ1 half a record")

    with Journal(tmp_path / "j") as journal:
        assert journal.recovery.torn_bytes == len(b"ETJ1 half a record")

    assert bodies(tmp_path / "j") == written
    assert [path.read_bytes() for path in (tmp_path / "j").glob("torn-*")] == [b"ETJ1 half a record"]


def test_bit_flips_are_named_and_the_rest_is_saved(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 300)
    segment = only_segment(tmp_path / "j")
    whole = segment.read_bytes()
    ends = []
    with JournalReader(tmp_path / "j") as reader:
        while reader.read(limit=1):
            ends.append(reader.end[1])

    for offset in random.Random(1).sample(range(24, ends[-2]), 300):
        hurt = next(number for number, end in enumerate(ends) if offset < end)
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        segment.write_bytes(damaged)
        with JournalReader(tmp_path / "j") as reader:
            assert [record.body for record in reader] == written[:hurt] + written[hurt + 1 :], offset
            assert [(damage.first, damage.last) for damage in reader.damage] == [(hurt, hurt)]


def test_damage_is_quarantined_and_appending_goes_on(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 50)
    segment = only_segment(tmp_path / "j")
    damaged = bytearray(segment.read_bytes())
    damaged[300] ^= 0xFF
    segment.write_bytes(damaged)

    with Journal(tmp_path / "j") as journal:
        (damage,) = journal.recovery.damage
        journal.append(b"after")
        journal.commit()

    lost = written[damage.first]
    assert bodies(tmp_path / "j") == [body for body in written if body != lost] + [b"after"]
    assert len(list((tmp_path / "j").glob("damaged-*"))) == 1


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    fill(tmp_path / "j", 3000, size=2000, commit_every=100, segment_bytes=1 << 20)
    (tmp_path / "j" / "000002.etj").unlink()

    with JournalReader(tmp_path / "j") as reader:
        numbers = [record.number for record in reader]

    (damage,) = reader.damage
    assert sorted([*numbers, *range(damage.first, damage.last + 1)]) == list(range(3000))


def test_a_last_commit_with_a_hole_is_torn_and_not_damage(tmp_path: Path) -> None:
    """A power cut may keep the end of a write and lose its beginning; nothing says that it was ever finished."""
    fill(tmp_path / "j", 20)
    with Journal(tmp_path / "j") as journal:
        for body in (b"twenty", b"twenty-one", b"twenty-two"):
            journal.append(body)
        journal.commit()
    segment = only_segment(tmp_path / "j")
    whole = segment.read_bytes()
    place = whole.index(b"twenty-one")
    segment.write_bytes(whole[:place] + bytes(10) + whole[place + 10 :])

    with JournalReader(tmp_path / "j") as reader:
        assert [record.body for record in reader][20:] == [b"twenty", b"twenty-two"]
        assert [(damage.first, damage.last, damage.proven) for damage in reader.damage] == [(21, 21, False)]
    replayed: list[Record] = []
    with Journal(tmp_path / "j", replay=replayed.append) as journal:
        assert journal.recovery.damage == []
        assert [(record.number, record.body) for record in replayed[20:]] == [(20, b"twenty"), (21, b"twenty-two")]
        journal.append(b"after")
        journal.commit()

    with JournalReader(tmp_path / "j") as reader:
        assert [record.body for record in reader][20:] == [b"twenty", b"twenty-two", b"after"]
        assert reader.damage == []


def test_a_hurt_header_loses_no_record(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 30)
    segment = only_segment(tmp_path / "j")
    segment.write_bytes(b"X" + segment.read_bytes()[1:])

    with JournalReader(tmp_path / "j") as reader:
        assert [record.body for record in reader] == written
        assert "no record is lost" in str(reader.damage[0])


def test_a_stillborn_segment_is_removed(tmp_path: Path) -> None:
    written = fill(tmp_path / "j", 10)
    (tmp_path / "j" / "000002.etj").write_bytes(bytes(4096))

    with Journal(tmp_path / "j") as journal:
        journal.append(b"after")
        journal.commit()

    assert bodies(tmp_path / "j") == [*written, b"after"]


def test_a_follower_sees_records_as_they_are_committed(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", segment_bytes=1 << 20) as journal:
        follower = JournalReader(tmp_path / "j", live=True)
        assert follower.read() == []
        seen = []
        for number in range(40):
            journal.append(b"", bytes([number]) * 100_000)
            journal.commit()
            seen += [record.body[0] for record in follower.read()]
        follower.close()

    assert seen == list(range(40))
    assert follower.damage == []


def test_a_follower_waits_at_half_a_record_and_passes_proven_damage(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(b"one")
        journal.commit()
    segment = only_segment(tmp_path / "j")
    good = segment.read_bytes()
    with Journal(tmp_path / "j") as journal:
        for body in (b"two", b"three"):
            journal.append(body)
            journal.commit()
    complete = segment.read_bytes()
    end_of_two = len(good) + (len(complete) - len(good) - 2) // 2

    with JournalReader(tmp_path / "j", live=True) as follower:
        segment.write_bytes(complete[: end_of_two - 3] + bytes(1000))
        assert [record.body for record in follower.read()] == [b"one"]
        assert follower.read() == []
        segment.write_bytes(complete)
        assert [record.body for record in follower.read()] == [b"two", b"three"]
    with JournalReader(tmp_path / "j", live=True) as follower:
        segment.write_bytes(complete[: len(good) + 18] + b"?" + complete[len(good) + 19 :])
        assert [record.body for record in follower.read()] == [b"one"]
        assert [record.body for record in follower.read()] == [b"three"]
        assert [(damage.first, damage.last) for damage in follower.damage] == [(1, 1)]


def test_a_follower_that_looks_while_a_commit_is_written_skips_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(b"one")
        journal.commit()
        end_of_one = journal._offset
        for body in (b"two", b"three", b"four"):
            journal.append(body)
            journal.commit()
        segment = only_segment(tmp_path / "j")
        complete = segment.read_bytes()
        segment.write_bytes(complete[: end_of_one + 10] + bytes(len(complete) - end_of_one - 10))
        look = journal_module._Segment.blank

        def blank(self: journal_module._Segment) -> bool:
            segment.write_bytes(complete)  # the writer has gone on since the first look
            return look(self)

        monkeypatch.setattr(journal_module._Segment, "blank", blank)
        with JournalReader(tmp_path / "j", live=True) as follower:
            seen = [record.body for _ in range(4) for record in follower.read()]

    assert seen == [b"one", b"two", b"three", b"four"]
    assert follower.damage == []


def test_a_follower_of_a_busy_process_sees_every_record_once(tmp_path: Path) -> None:
    script = """
import sys
from ether.journal import Journal
with Journal(sys.argv[1], transient=True) as journal:
    for number in range(20_000):
        journal.append(b"%d " % number, b"x" * (number * 37 % 3000))
        if number % 3 == 0:
            journal.commit()
    journal.commit()
"""
    (tmp_path / "j").mkdir()
    seen: list[int] = []
    with (
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "j")]) as writer,
        JournalReader(tmp_path / "j", live=True) as follower,
    ):
        while writer.poll() is None:
            seen += [record.number for record in follower.read()]
        seen += [record.number for record in follower]

    assert writer.returncode == 0
    assert seen == list(range(20_000))
    assert follower.damage == []


def test_a_failed_sync_is_never_retried_on_the_same_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    fail = [True]
    real_open = os.open

    def open_noting(path: str | Path, *args: int) -> int:
        fd = real_open(path, *args)
        asked.append(-fd)  # the descriptor's number is in use anew: a new file
        return fd

    def sync(fd: int) -> None:
        assert fd not in asked[max((i for i, seen in enumerate(asked) if seen == -fd), default=0) :]
        if fail[0]:
            asked.append(fd)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal_module, "sync_data", sync)
    monkeypatch.setattr(os, "open", open_noting)
    journal = Journal(tmp_path / "j")
    journal.append(b"one")
    for _ in range(3):
        with pytest.raises(JournalError) as raised:
            journal.commit()
        assert raised.value.errno == errno.EIO
        assert journal.durable == 0
    fail[0] = False
    journal.append(b"two")

    assert journal.commit() == 2
    journal.close()
    assert bodies(tmp_path / "j") == [b"one", b"two"]


COMMITTING = """
import sys
from ether.journal import Journal
journal = Journal(sys.argv[1], segment_bytes=1 << 20)
while True:
    for _ in range(50):
        journal.append(b"%d " % journal.next_number, b"." * (journal.next_number * 37 % 3000))
    print(journal.commit(), flush=True)
"""


def test_kill_9_of_a_committing_process_loses_nothing_committed(tmp_path: Path) -> None:
    committed = 0
    for lines in (3, 20, 45, 7):
        child = subprocess.Popen([sys.executable, "-c", COMMITTING, str(tmp_path / "j")], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(lines):
            committed = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]
        committed = int(rest[-1]) if rest else committed
        child.wait()
        child.stdout.close()

        found = bodies(tmp_path / "j")
        assert len(found) >= committed
        assert all(body.startswith(b"%d " % number) for number, body in enumerate(found))


FULL = """
import errno, os, resource, signal, sys
from ether.errors import JournalError
from ether.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
journal = Journal(sys.argv[1], segment_bytes=1 << 20)
def commit(count):
    for _ in range(count):
        journal.append(b"%d " % journal.next_number, b"." * 1000)
    return journal.commit()
try:
    commit(10)
    print("accepted")
except JournalError as exc:
    print("refused", errno.errorcode[exc.errno], journal.durable, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print("resumed", commit(300))
"""


def test_a_limit_on_file_size_is_a_state_and_resumes(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "j")], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["refused EFBIG 0", "resumed 310"]
    assert [int(body.split()[0]) for body in bodies(tmp_path / "j")] == list(range(310))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_a_state_and_resumes(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        with Journal(disk / "j", segment_bytes=1 << 20) as journal:

            def fill_up() -> None:
                for _ in range(10_000):
                    journal.append(b"%d " % journal.next_number, b"." * 1000)
                    journal.commit()

            with pytest.raises(JournalError, match="the disk is full") as raised:
                fill_up()
            assert raised.value.errno == errno.ENOSPC
            durable = journal.durable
            assert len(bodies(disk / "j")) == durable
            with pytest.raises(JournalError):
                journal.commit()
            ballast.unlink()
            assert journal.commit() == durable + 1
        assert [int(body.split()[0]) for body in bodies(disk / "j")] == list(range(durable + 1))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
