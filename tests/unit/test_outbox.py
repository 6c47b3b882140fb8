"""The account of an outbox, on real files and with a recorder that the test plays."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ether import clock
from ether.journal import Journal
from ether.model import Message
from ether.outbox import WINDOW, Outbox, Sender, hand_over, outbox_folder


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(clock, "monotonic", found)
    return found


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """Open the outbox of boot b1; closed after the test."""
    boxes: list[Outbox] = []

    def start(**options: Any) -> Outbox:
        boxes.append(Outbox(tmp_path / "oven" / "b1", **options))
        return boxes[-1]

    yield start
    for box in boxes:
        box.close(remove=False)


@pytest.fixture
def box(opened: Callable[..., Outbox], time: Clock) -> Outbox:
    return opened()


def _keep(box: Outbox, numbers: range | list[int], topic: str = "lab/oven") -> None:
    for number in numbers:
        assert box.keep(topic, number, 1, b"%d" % number)


def _again(box: Outbox) -> tuple[list[int], int | None]:
    """Return the numbers that are sent again now, and the question's number."""
    step = box.step()
    if step is None:
        return [], None
    return [int(payload) for _, payload in step[0]], step[1]


def _in_doubt(box: Outbox, time: Clock) -> int:
    """Let a second pass; return the number of the question that comes of it."""
    time.now += 1.01
    numbers, question = _again(box)
    assert numbers == []
    assert question is not None
    return question


def test_what_is_confirmed_is_forgotten_and_the_rest_is_not(box: Outbox) -> None:
    _keep(box, range(10))
    _keep(box, range(5), "lab/fan")

    box.told({"boot": "b1", "topics": {"lab/oven": 6}})
    assert box.unconfirmed() == {"lab/oven": 3, "lab/fan": 5}

    box.told({"topics": {"lab/oven": 9, "lab/fan": 4, "of/others": 7}})
    assert (box.confirmed, box.unconfirmed()) == (True, {})
    assert box.last_numbers() == {"lab/oven": 9, "lab/fan": 4}
    assert box.due() is None


def test_a_watermark_that_stands_still_is_asked_about_before_anything_is_sent_again(box: Outbox, time: Clock) -> None:
    _keep(box, range(10))
    assert box.step() is None
    assert box.due() == pytest.approx(time.now + 1.0)

    question = _in_doubt(box, time)
    box.told({"topics": {"lab/oven": 6}, "asked": question})

    assert _again(box) == ([7, 8, 9], question + 1)
    box.told({"topics": {"lab/oven": 9}, "asked": question + 1})
    assert box.step() is None
    assert box.confirmed


def test_a_recorder_that_answers_nothing_is_tried_less_and_less(box: Outbox, time: Clock) -> None:
    _keep(box, range(3))
    _in_doubt(box, time)
    waits, sent = [], 0
    for _ in range(8):
        due = box.due()
        assert due is not None
        waits.append(round(due - time.now, 3))
        time.now = due
        sent += len(_again(box)[0])

    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert sent == 3 * 8


def test_no_more_than_a_window_is_sent_before_the_next_answer(box: Outbox, time: Clock) -> None:
    _keep(box, range(2 * WINDOW + 50))
    question: int | None = _in_doubt(box, time)
    box.told({"topics": {}, "asked": question})

    sent = []
    while not box.confirmed:
        numbers, question = _again(box)
        assert box.step() is None
        sent.append(numbers)
        box.told({"topics": {"lab/oven": numbers[-1]}, "asked": question})

    assert [len(numbers) for numbers in sent] == [WINDOW, WINDOW, 50]
    assert [number for numbers in sent for number in numbers] == list(range(2 * WINDOW + 50))


def test_missing_numbers_are_sent_at_once_and_once(box: Outbox) -> None:
    _keep(box, range(20))
    missing = [[3, 4], [9, 9]]

    box.told({"topics": {"lab/oven": 2}, "missing": {"lab/oven": missing}, "seen": {"lab/oven": 19}})
    numbers, question = _again(box)
    assert numbers == [3, 4, 9]
    box.told({"topics": {"lab/oven": 2}, "missing": {"lab/oven": missing}})  # said before it had them
    assert box.step() is None

    box.told({"topics": {"lab/oven": 19}, "asked": question})
    assert (box.step(), box.confirmed) == (None, True)


def test_numbers_that_nobody_has_hold_nothing_up(box: Outbox) -> None:
    _keep(box, [*range(5), *range(8, 12)])

    box.told({"topics": {"lab/oven": 4}, "missing": {"lab/oven": [[5, 7]]}, "seen": {"lab/oven": 11}})

    assert (box.step(), box.confirmed) == (None, True)


def test_what_came_before_a_late_recorder_is_sent_to_it(box: Outbox) -> None:
    _keep(box, range(100, 110))

    box.told({"topics": {"lab/oven": 107}, "first": {"lab/oven": 104}})
    numbers, question = _again(box)
    assert numbers == [100, 101, 102, 103]

    box.told({"topics": {"lab/oven": 107}, "first": {"lab/oven": 100}, "asked": question})
    assert box.unconfirmed() == {"lab/oven": 2}


def test_a_batch_is_sent_whole_if_one_of_its_readings_is_missing(box: Outbox) -> None:
    box.keep("lab/oven", 0, 10, b"0")
    box.keep("lab/oven", 10, 10, b"10")

    box.told({"topics": {"lab/oven": 9}, "missing": {"lab/oven": [[12, 12]]}})

    assert _again(box)[0] == [10]


def test_confirmed_messages_give_their_room_back(opened: Callable[..., Outbox]) -> None:
    limit = 2 << 20
    box = opened(limit=limit)
    for number in range(500):
        assert box.keep("lab/camera", number, 1, bytes(50_000), wait_s=0)
        box.told({"topics": {"lab/camera": number}})

    assert sum(path.stat().st_size for path in box.folder.iterdir()) < limit


def test_a_full_outbox_refuses_after_a_wait_and_takes_again_when_there_is_room(opened: Callable[..., Outbox]) -> None:
    box = opened(limit=1 << 20)
    kept = 0
    while box.keep("lab/camera", kept, 1, bytes(50_000), wait_s=0.01):
        kept += 1
    assert 15 < kept < 25

    box.told({"topics": {"lab/camera": kept - 1}})
    assert box.keep("lab/camera", kept + 5, 1, b"")
    assert box.unconfirmed() == {"lab/camera": 1}


@pytest.mark.parametrize("confirmed", [None, 30])
def test_the_next_start_takes_over_what_a_killed_one_left(
    tmp_path: Path, opened: Callable[..., Outbox], confirmed: int | None
) -> None:
    program = f"""
import os, signal
from pathlib import Path
from ether.outbox import Outbox
box = Outbox(Path({str(tmp_path / "oven" / "b1")!r}))
for number in range(100):
    box.keep("lab/oven", number, 1, b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9

    box = opened()
    assert box.last_numbers() == {"lab/oven": 99}
    box.hurry()
    _, question = _again(box)
    box.told({"topics": {} if confirmed is None else {"lab/oven": confirmed}, "asked": question})

    assert _again(box)[0] == list(range(0 if confirmed is None else confirmed + 1, 100))


def test_what_was_forgotten_is_remembered_as_stored_by_the_next_start(opened: Callable[..., Outbox]) -> None:
    box = opened(limit=1 << 20)
    box.keep("lab/once", 0, 1, b"")
    for number in range(100):
        box.keep("lab/camera", number, 1, bytes(20_000))
        box.told({"topics": {"lab/camera": number - 1, "lab/once": 0}})
    box.close(remove=False)

    again = opened(limit=1 << 20)

    assert again.last_numbers() == {"lab/camera": 99, "lab/once": 0}
    assert "lab/once" not in again.unconfirmed()


class Wire:
    """Stands in for a connection."""

    connected = True
    in_network_thread = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        self.sent.append((topic, payload))
        return True

    def subscribe(self, filters: Any, qos: int = 1) -> None: ...

    def flush(self, timeout: float) -> bool:
        return True


def _sender(folder: Path, **options: Any) -> Sender:
    return Sender(Wire(), "oven", "b1", folder, **options)  # type: ignore[arg-type]  # as much of one as is needed


def test_without_a_recorder_nothing_is_kept(tmp_path: Path) -> None:
    sender = _sender(tmp_path / "oven")

    sender.keep("lab/oven", 0, 1, b"0")

    assert not (tmp_path / "oven").exists()
    assert sender.settle(5.0)
    sender.close()


def test_only_what_is_recorded_is_kept(tmp_path: Path) -> None:
    sender = _sender(tmp_path / "oven")
    about = b'{"subscribes":{"lab/#":{"records":true}},"kwargs":{"exclude":["lab/video"]}}'
    sender.hear(Message("ether/about/recorder", about))
    for topic in ("lab/oven", "lab/video", "other"):
        sender.keep(topic, 0, 1, b"0")

    (box,) = sender._boxes
    assert box.unconfirmed() == {"lab/oven": 1}
    assert sender.settle(0.01) is False
    sender.close()
    assert [path.name for path in tmp_path.iterdir()] == ["oven"]


def test_a_confirmation_for_another_boot_confirms_nothing(tmp_path: Path, until: Callable[..., None]) -> None:
    sender = _sender(tmp_path / "oven")
    sender.records(["#"], [])
    sender.keep("lab/oven", 0, 1, b"0")

    sender.hear(Message("ether/stored/oven", b'{"boot":"b0","topics":{"lab/oven":7}}'))
    sender.hear(Message("ether/stored/oven", b"no JSON"))
    until(lambda: not sender._told)
    assert sender._boxes[0].unconfirmed() == {"lab/oven": 1}

    sender.hear(Message("ether/stored/oven", b'{"boot":"b1","topics":{"lab/oven":0}}'))
    until(lambda: sender._boxes[0].confirmed)
    sender.close()
    assert not (tmp_path / "oven").exists()


def test_a_dead_start_is_forgotten_only_when_its_goodbye_is_on_disk(
    tmp_path: Path, until: Callable[..., None], opened: Callable[..., Outbox]
) -> None:
    dead = opened()  # of boot b1
    _keep(dead, [0])
    dead.close(remove=False)
    wire = Wire()
    sender = Sender(wire, "oven", "b2", tmp_path / "oven")  # type: ignore[arg-type]  # as much of one as is needed
    sender.hear(Message("ether/status/recorder", b'{"state":"ready","boot":"r1"}'))
    sender.begin()
    until(lambda: sender._boxes)
    sender.hear(Message("ether/stored/oven", b'{"boot":"b1","topics":{"lab/oven":0}}'))

    def asked() -> list[int]:
        """Return the questions that followed a goodbye."""
        sent = list(wire.sent)
        found = [place for place, (topic, _) in enumerate(sent) if topic == "ether/status/oven"]
        return [json.loads(sent[place + 1][1])["id"] for place in found if place + 1 < len(sent)]

    until(asked, what="a goodbye")
    sender.renew()  # the broker died with it
    until(lambda: len(asked()) == 2, what="another goodbye")
    assert (tmp_path / "oven" / "b1").exists()

    def answered() -> bool:
        said = {"boot": "b1", "topics": {}, "asked": asked()[-1]}
        sender.hear(Message("ether/stored/oven", json.dumps(said).encode()))
        return sender.settle(0.2)

    until(answered, what="the end of the dead start")
    assert not (tmp_path / "oven").exists()
    sender.close()


def test_a_full_outbox_is_told_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sender = _sender(tmp_path / "oven", limit=1 << 20)
    sender.records(["#"], [])
    told: list[str] = []
    sender.on_trouble = told.append

    for number in range(40):
        sender.keep("lab/camera", number, 1, bytes(50_000))

    assert 15 < sender.counts["unstored"] < 25
    assert told == ["the outbox is full (1048576 bytes wait for the recorder)"]
    assert caplog.text.count("the outbox is full") == 1
    sender.close()


def test_an_outbox_lies_beside_its_recording() -> None:
    assert outbox_folder(Path("data/growth.h5"), "oven") == Path("data/.growth.outbox/oven")


def test_who_has_just_ended_in_order_is_taken_for_dead_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Outbox(tmp_path / "oven" / "b1")
    _keep(box, range(3))
    taken: list[Message] = []
    close = Journal.close

    def close_late(journal: Journal) -> None:
        close(journal)
        hand_over(tmp_path, taken.append)  # the session's end, right when nobody holds it any more

    monkeypatch.setattr(Journal, "close", close_late)
    box.close(remove=True)
    monkeypatch.undo()

    (tmp_path / "oven" / "b1").mkdir(parents=True)  # as somebody makes it who opens what is being removed
    hand_over(tmp_path, taken.append)
    assert (taken, list(tmp_path.rglob("*"))) == ([], [])
