"""What a killed session left behind becomes a recording, whole, and however often it is tried."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ether import codecs
from ether.cli.app import run
from ether.errors import JournalError
from ether.journal import Journal
from ether.model import Envelope
from ether.outbox import Outbox, outbox_folder
from ether.recorder import seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.reader import open_recording
from ether.recorder.recovery import recover, unfinished
from ether.recorder.verify import verify


def message(number: int) -> bytes:
    return codecs.encode({"n": number}, Envelope("oven", "b", number, 1.0))


def journal(file: Path, numbers: Iterable[int]) -> None:
    """Leave the journal of a recorder that was killed."""
    with Journal(journal_folder(file)) as left:
        left.append(*note(Kind.SESSION, {"file": str(file), "session": {"name": "growth"}}))
        for number in numbers:
            left.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), message(number))
        left.commit()


def outbox(file: Path, numbers: Iterable[int]) -> Outbox:
    """Return the outbox of a publisher; closed, it is what one leaves that was killed."""
    box = Outbox(outbox_folder(file, "oven") / "b")
    for number in numbers:
        box.keep("lab/oven", number, 1, message(number))
    return box


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "growth.h5"


def numbers_in(file: Path) -> list[int]:
    with open_recording(file) as recording:
        return [int(number) for number in recording["lab/oven"]["n"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_publisher_left_is_in_the_recording_once(file: Path) -> None:
    journal(file, range(10))
    outbox(file, range(5, 20)).close(remove=False)

    found = recover(file)

    assert (found.recording, found.made, found.from_outboxes) == (file, True, 10)
    assert numbers_in(file) == list(range(20))
    report = verify(file)
    (tally,) = report.tallies
    assert (tally.announced, tally.duplicates, tally.missing, tally.level) == (19, 5, 0, "L3")
    assert (report.state, report.damage) == ("recovered", [])
    assert names(file.parent) == ["growth.h5"]
    assert recover(file).made is False


def test_an_outbox_alone_makes_a_recording(file: Path) -> None:
    outbox(file, range(5)).close(remove=False)

    assert recover(file).from_outboxes == 5

    assert numbers_in(file) == list(range(5))


def test_a_sealed_file_stays_and_what_it_lacks_is_beside_it(file: Path) -> None:
    journal(file, [0, 1, 2, 5, 6])
    seal.recover(file)
    sealed = file.read_bytes()
    outbox(file, range(2, 10)).close(remove=False)

    found = recover(file)

    assert (found.recording.name, found.from_outboxes) == ("growth-2.h5", 5)
    assert numbers_in(found.recording) == [3, 4, 7, 8, 9]
    assert file.read_bytes() == sealed
    assert names(file.parent) == ["growth-2.h5", "growth.h5"]
    assert recover(file).made is False


def test_outboxes_that_hold_nothing_new_leave_nothing(file: Path) -> None:
    journal(file, range(10))
    seal.recover(file)
    outbox(file, range(4, 8)).close(remove=False)

    assert recover(file).made is False

    assert names(file.parent) == ["growth.h5"]


def test_recovery_that_was_killed_between_outbox_and_file_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal(file, range(3))
    seal.recover(file)
    outbox(file, range(3, 6)).close(remove=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(seal, "recover", lambda target: (_ for _ in ()).throw(KeyboardInterrupt))
        recover(file)

    assert recover(file).recording.name == "growth-2.h5"

    assert numbers_in(file.with_name("growth-2.h5")) == [3, 4, 5]


def test_who_lives_is_left_alone(file: Path) -> None:
    journal(file, range(3))
    living = outbox(file, range(3, 6))
    with Journal(journal_folder(file)), pytest.raises(JournalError, match="another process"):
        recover(file)

    assert recover(file).from_outboxes == 0
    living.close(remove=False)
    assert recover(file).from_outboxes == 3


def test_all_that_is_left_in_a_folder_is_found(tmp_path: Path) -> None:
    journal(tmp_path / "night" / "a.hdf5", [0])
    outbox(tmp_path / "b.h5", [0]).close(remove=False)
    outbox_folder(tmp_path / "c.h5", "oven").mkdir(parents=True)
    (tmp_path / ".config" / ".d.journal").mkdir(parents=True)

    assert unfinished(tmp_path) == [tmp_path / "b.h5", tmp_path / "night" / "a.hdf5"]


def test_the_command_recovers_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(tmp_path / "a.h5", range(3))
    journal(tmp_path / "b.h5", range(4))
    outbox(tmp_path / "b.h5", range(4, 6)).close(remove=False)
    with Journal(journal_folder(tmp_path / "running.h5")):
        assert run(["recover", str(tmp_path)]) == 0

    assert capsys.readouterr().out == (
        f"{tmp_path}/a.h5: recovered, 3 messages\n"
        f"{tmp_path}/b.h5: recovered, 7 messages, 2 readings left by publishers that were killed\n"
        f"{tmp_path}/running.h5 is being recorded\n"
    )


def test_the_command_names_a_file_that_never_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recover", str(tmp_path / "no.h5")]) == 1

    assert "no such file, and no journal of it" in capsys.readouterr().err


def test_the_command_tells_programs_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(tmp_path / "a.h5", range(3))

    assert run(["recover", "--json", str(tmp_path / "a.h5")]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "recording": str(tmp_path / "a.h5"), "made": True, "messages": 3, "from_outboxes": 0,
    }  # fmt: skip


@pytest.mark.parametrize("size", ["6m", "7m", "10m"])
def test_without_room_there_is_one_clear_line_and_all_is_there_for_the_next_attempt(
    size: str, mount_disk: Callable[[str], Path]
) -> None:
    """The disk is full while the file is built, when it is flushed, and where it would be sealed."""
    disk = mount_disk(size)
    file = disk / "r.h5"
    with Journal(journal_folder(file), segment_bytes=1 << 20) as journal:
        for number in range(300):
            journal.append(head(Kind.MESSAGE, 1, number, number, "lab/oven"), b'"%s"' % (b"x" * 10_000))
            journal.commit()
        journal.append(*note(Kind.END, {"reason": "stop", "connected": True}))
        journal.commit()
    command = [sys.executable, "-m", "ether.cli", "recover", str(file)]

    refused = subprocess.run(command, capture_output=True, text=True)

    assert refused.returncode == 1, refused
    said = f"ether: {file}: cannot be written: No space left on device; the journal beside it has everything"
    assert refused.stderr.splitlines()[-1] == said
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (verify(file).complete, verify(file).messages) == (True, 300)
