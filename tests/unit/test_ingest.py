"""Ingest: nothing is acknowledged or confirmed before it is durable, and trouble with the disk is a state."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ether import clock, codecs
from ether import journal as journal_module
from ether.journal import Journal, JournalReader
from ether.model import Envelope, Message
from ether.mqtt import Receipt
from ether.recorder import ingest as ingest_module
from ether.recorder.entries import Kind, unpack
from ether.recorder.ingest import Ingest


def reading(number: int, topic: str = "lab/oven", **more: Any) -> Message:
    return Message(topic, codecs.encode({"a": number}, Envelope("oven", "b1", number, 1.0)), 1, **more)


class Desk:
    """An ingest with a journal, and a log of what it did in which order."""

    def __init__(self, folder: Path) -> None:
        self.done: list[tuple[str, Any]] = []
        self.change = threading.Condition()
        self.folder = folder
        self.ingest = Ingest(
            wanted=["lab/#"],
            exclude=["lab/video"],
            acknowledge=lambda receipts: self.note("acknowledge", [receipt.packet_id for receipt in receipts]),
            confirm=lambda name, said: self.note("confirm", (name, said)),
            stop=lambda: self.note("stop", None),
            answer=lambda topic, content: self.note("answer", (topic, content)),
            trouble=lambda reason: self.note("trouble", reason),
        )
        self.journal = Journal(folder, replay=self.ingest.replayed)

    def note(self, what: str, detail: Any) -> None:
        with self.change:
            self.done.append((what, detail))
            self.change.notify_all()

    def wait(self, what: str, fits: Callable[[Any], bool] = lambda detail: True) -> Any:
        def found() -> list[Any]:
            return [detail for each, detail in self.done if each == what and fits(detail)]

        with self.change:
            assert self.change.wait_for(found, 10), f"no {what}: {self.done}"
            return found()[0]

    def take(self, message: Message, packet_id: int = 0) -> None:
        self.ingest.take(message, Receipt(packet_id, 1, 1) if packet_id else None)

    def stored(self) -> list[tuple[str, bytes]]:
        with JournalReader(self.folder) as reader:
            entries = [unpack(record) for record in reader]
        return [(entry.topic, entry.payload) for entry in entries if entry.kind == Kind.MESSAGE]

    def close(self) -> None:
        self.ingest.close("test", 5)
        self.journal.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "j")
    desk.ingest.start(desk.journal)
    yield desk
    desk.close()


def test_nobody_waits_for_more_than_the_broker_sends_unacknowledged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mosquitto as it is delivered sends twenty messages, and then waits for us."""
    monkeypatch.setattr(ingest_module, "COMMIT_S", 60.0)
    desk.take(reading(0))
    numbers = list(range(1, 20))

    for number in numbers:
        desk.take(reading(number), number)

    assert desk.wait("acknowledge") == numbers


def test_nothing_is_acknowledged_or_confirmed_before_its_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path / "j")
    synced: list[int] = []
    real_sync = journal_module.sync_data

    def sync(fd: int) -> None:
        real_sync(fd)
        with JournalReader(tmp_path / "j") as reader:
            synced.append(sum(1 for _ in reader))
        desk.note("sync", synced[-1])

    monkeypatch.setattr(journal_module, "sync_data", sync)
    desk.ingest.start(desk.journal)
    for number in range(200):
        desk.take(reading(number), number + 1)
        if number % 40 == 39:
            desk.wait("acknowledge", lambda ids, last=number + 1: last in ids)
    desk.wait("confirm", lambda said: said[1]["topics"].get("lab/oven") == 199)
    desk.close()

    durable = 0
    for what, detail in desk.done:
        if what == "sync":
            durable = detail
        elif what == "acknowledge":
            assert max(detail) <= durable
        elif what == "confirm":
            assert detail[1]["topics"]["lab/oven"] < durable
    assert sorted(each for what, ids in desk.done if what == "acknowledge" for each in ids) == list(range(1, 201))


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["failing", "turned read-only"])
def test_a_failing_disk_is_an_alarm_and_ends_by_itself(desk: Desk, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = threading.Event()
    broken.set()
    real = os.fsync

    def fail(fd: int) -> None:
        if broken.is_set():
            raise OSError(code, os.strerror(code))
        real(fd)

    monkeypatch.setattr(journal_module, "sync_data", fail)
    monkeypatch.setattr(ingest_module, "_RETRY_S", 0.05)
    desk.take(reading(0), 1)
    assert os.strerror(code) in desk.wait("trouble")
    assert not [what for what, _ in desk.done if what in ("acknowledge", "confirm")]
    broken.clear()

    assert desk.wait("acknowledge") == [1]
    desk.wait("trouble", lambda reason: reason == "")
    assert desk.wait("confirm") == ("oven", {"boot": "b1", "topics": {"lab/oven": 0}})


def test_memory_is_bounded_by_not_reading_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    monkeypatch.setattr(ingest_module, "QUEUE_BYTES", 100_000)
    real = journal_module.sync_data
    monkeypatch.setattr(journal_module, "sync_data", lambda fd: (held.wait(10), real(fd)))
    taken = []

    def flood() -> None:
        for number in range(30):
            desk.take(Message("lab/big", b"x" * 10_000, 1), number + 1)
            taken.append(number)

    thread = threading.Thread(target=flood)
    thread.start()
    deadline = clock.monotonic() + 10
    while desk.ingest._queued_bytes <= 100_000:
        assert clock.monotonic() < deadline
    assert len(taken) < 15
    held.set()
    thread.join(10)

    desk.wait("acknowledge", lambda ids: 30 in ids)
    assert len(desk.stored()) == 30


def test_duplicates_are_counted_and_not_stored_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "j")
    desk.ingest.start(desk.journal)
    for number in (0, 1, 1, 0, 2):
        desk.take(reading(number), number + 1)
    desk.take(Message("ether/resend/lab/oven", reading(2).payload, 1), 9)
    desk.wait("acknowledge", lambda ids: 9 in ids)
    desk.close()

    again = Desk(tmp_path / "j")
    again.ingest.start(again.journal)
    again.take(reading(2), 1)
    again.take(reading(3), 2)
    again.wait("acknowledge", lambda ids: 2 in ids)
    again.close()
    assert [payload for _, payload in again.stored()] == [reading(number).payload for number in range(4)]
    assert again.ingest.counts["duplicates"] == 4
    assert again.ingest.account.tracks["oven", "b1", "lab/oven"].duplicates == 4


def test_what_is_stored(desk: Desk) -> None:
    about = b'{"class": "Oven", "kwargs": {"password": "hunter2", "port": 1}}'
    for message in (
        Message("lab/a", b"1", 1), Message("lab/video", b"2", 1), Message("other", b"3", 1),
        Message("lab/r", b"4", 1, True),
        Message("ether/status/oven", b'{"state":"ready","boot":"b","t":1}', 1),
        Message("ether/status/oven", b'{"state":"ready","boot":"b","t":3}', 1),
        Message("ether/about/oven", about, 1), Message("ether/about/oven", about, 1, True),
        Message("ether/stored/oven", b"{}", 0), Message("ether/log/oven", b"{}", 0), Message("ether/run", b"", 1),
        Message("ether/probe/1f/queued", b"7", 1),
    ):  # fmt: skip
        desk.take(message)
    desk.take(Message("ether/command/recorder/stop", b"{}", 1), 5)
    desk.wait("stop")

    assert desk.stored() == [
        ("lab/a", b"1"),
        ("ether/status/oven", b'{"state":"ready","boot":"b","t":1}'),
        ("ether/about/oven", b'{"class":"Oven","kwargs":{"password":"***","port":1}}'),
        ("ether/log/oven", b"{}"),
        ("ether/run", b""),
        ("ether/command/recorder/stop", b"{}"),
    ]


def test_what_comes_after_the_end_is_left_to_the_broker(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "j")
    desk.ingest.start(desk.journal)
    desk.take(reading(0), 1)
    desk.close()
    desk.take(reading(1), 2)

    assert [ids for what, ids in desk.done if what == "acknowledge"] == [[1]]
    assert len(desk.stored()) == 1


def test_watermarks_are_confirmed_anew_after_a_reconnect(desk: Desk) -> None:
    desk.take(reading(0), 1)
    desk.wait("confirm")
    desk.done.clear()
    desk.ingest.confirm_again()

    assert desk.wait("confirm") == ("oven", {"boot": "b1", "topics": {"lab/oven": 0}})


def test_only_what_is_new_is_confirmed(desk: Desk) -> None:
    desk.take(reading(0, "lab/oven"))
    desk.take(reading(0, "lab/pump"))
    desk.wait("confirm", lambda detail: detail[1]["topics"] == {"lab/oven": 0, "lab/pump": 0})
    desk.take(reading(1, "lab/pump"))

    assert desk.wait("confirm", lambda detail: detail[1]["topics"].get("lab/pump") == 1) == (
        "oven",
        {"boot": "b1", "topics": {"lab/pump": 1}},
    )


def test_what_the_last_words_of_a_publisher_miss_is_told(desk: Desk) -> None:
    desk.take(reading(0))
    desk.wait("confirm")
    last = b'{"state":"disconnected","boot":"b1","last":{"lab/oven":2,"lab/pump":-1}}'
    desk.take(Message("ether/status/oven", last, 1))

    said = desk.wait("confirm", lambda detail: "missing" in detail[1])[1]

    assert (said["missing"], said["seen"]) == ({"lab/oven": [[1, 2]]}, {"lab/oven": 0})


def test_ingest_stays_small() -> None:
    code = "import sys, ether.recorder.ingest; print(sorted({'numpy', 'h5py', 'pandas'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def batch(first: int, last: int) -> Message:
    values = list(range(first, last + 1))
    times = [float(value) for value in values]
    return Message("lab/oven", codecs.encode({"a": values}, Envelope("oven", "b1", first, None, times, len(values))), 1)


def test_a_batch_cut_differently_is_stored_once(desk: Desk) -> None:
    for message in (batch(0, 3), batch(6, 7), batch(2, 9)):
        desk.take(message)
    desk.wait("confirm", lambda detail: detail[1]["topics"] == {"lab/oven": 9})

    found = [codecs.decode(payload) for _, payload in desk.stored()]
    assert [fields["a"] for fields, _ in found] == [[0, 1, 2, 3], [6, 7], [4, 5], [8, 9]]
    assert [(envelope.n, envelope.ms) for _, envelope in found if envelope is not None][2:] == [
        (4, [4, 5]),
        (8, [8, 9]),
    ]
    assert desk.ingest.account.missing() == 0


def test_who_asks_from_a_number_on_is_not_told_of_holes_below(desk: Desk) -> None:
    for number in (0, 1, 5, 6, 8):
        desk.take(reading(number))
    desk.take(Message("ether/command/recorder/confirm", b'{"by":"oven","boot":"b1","id":1,"from":{"lab/oven":5}}', 1))

    said = desk.wait("confirm", lambda detail: detail[1].get("asked") == 1)[1]

    assert said["topics"] == {"lab/oven": 6}
    assert said["missing"] == {"lab/oven": [[7, 7]]}
    assert desk.ingest.account.missing() == 4


HeldSync = tuple[threading.Event, threading.Event]


@pytest.fixture
def held_sync(monkeypatch: pytest.MonkeyPatch) -> HeldSync:
    """Syncs set the first event, and wait for the second."""
    syncing, go_on = threading.Event(), threading.Event()
    sync = journal_module.sync_data

    def slow(fd: int) -> None:
        syncing.set()
        assert go_on.wait(10)
        sync(fd)

    monkeypatch.setattr(journal_module, "sync_data", slow)
    return syncing, go_on


def test_a_slow_disk_is_told_and_nothing_is_confirmed_early(desk: Desk, held_sync: HeldSync) -> None:
    syncing, go_on = held_sync
    desk.take(reading(0), 1)
    assert syncing.wait(10)
    desk.take(reading(1), 2)
    began = clock.monotonic()
    while desk.ingest.pressure()["behind_ms"] < 200 or clock.monotonic() < began + 0.2:  # it queued before it began
        assert clock.monotonic() < began + 10

    assert desk.ingest.pressure()["waiting_bytes"] > len(reading(0).payload) + len(reading(1).payload)
    assert [what for what, _ in desk.done if what in ("acknowledge", "confirm")] == []
    go_on.set()
    desk.wait("acknowledge", lambda ids: 2 in ids)
    assert desk.ingest.pressure()["commit_ms"] >= 100


def test_a_remark_is_answered_after_its_sync_and_not_before(desk: Desk, held_sync: HeldSync) -> None:
    syncing, go_on = held_sync
    remark = b'{"text": "door open", "id": "7", "reply_to": "ether/reply/ada"}'
    desk.take(Message("ether/annotation", remark, 1), 1)
    assert syncing.wait(10)
    assert [what for what, _ in desk.done if what == "answer"] == []
    go_on.set()

    answer = desk.wait("answer")
    assert answer == ("ether/reply/ada", {"id": "7", "status": "success", "result": "stored"})
    assert ("ether/annotation", remark) in desk.stored()
