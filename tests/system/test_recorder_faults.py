"""The recorder as a process, over a real Mosquitto with its default limits."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
from fault_parts import wait_until
from payloads import TOPICS, ZOO
from recorder_bench import Bench

from ether import clock, codecs, topics
from ether.model import Envelope, Message
from ether.mqtt import Receipt
from ether.recorder import layout
from ether.recorder.reader import open_recording
from ether.recorder.seal import recover
from ether.recorder.verify import verify


@pytest.fixture
def broker_kind(mosquitto: str) -> str:
    return "mosquitto"


@pytest.fixture
def bench(broker: Any, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(broker.url, tmp_path)
    yield bench
    bench.close()


def test_a_clean_recording_is_complete_and_leaves_nothing_behind(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    for number in range(2000):
        bench.publish(f"lab/oven/{number % 4}", number // 4)
    wait_until(lambda: bench.stored.get("oven", {}) == {f"lab/oven/{n}": 499 for n in range(4)}, "confirmation")
    bench.say("oven", "disconnected", last={f"lab/oven/{n}": 499 for n in range(4)})

    assert bench.stop() == 0

    report = verify(bench.file)
    assert (report.complete, report.damage, report.missing) == (True, [], 0)
    assert [tally.received for tally in report.tallies] == [500] * 4
    assert all(tally.from_start and tally.announced == 499 for tally in report.tallies)
    assert [path.name for path in bench.file.parent.iterdir()] == ["growth.h5"]
    wait_until(lambda: bench.state() == "disconnected", "the goodbye")
    with open_recording(bench.file) as recording:
        assert recording["lab/oven/3"]["value"].tolist() == [n / 2 for n in range(500)]
        assert recording.provenance["config"] == "record: on\npassword: ***\n"
        assert [change.status.state for change in recording.status if change.name == "oven"] == ["init", "disconnected"]


def test_what_is_left_after_a_kill_can_be_recovered_without_the_session(bench: Bench) -> None:
    bench.start()
    for number in range(300):
        bench.publish("lab/oven", number)
    wait_until(lambda: bench.stored.get("oven", {}).get("lab/oven") == 299, "confirmation")
    bench.kill()

    assert recover(bench.file) is True
    assert recover(bench.file) is False

    report = verify(bench.file)
    assert (report.state, report.complete, report.missing, report.damage) == ("recovered", False, 0, [])
    assert len(open_recording(bench.file)["lab/oven"]) == 300


def test_whatever_is_published_is_recorded_byte_for_byte_and_decoded_or_flagged(bench: Bench) -> None:
    topics = [topic for topic in TOPICS if topic.count("/") < 200 and topic.isprintable()]  # Mosquitto refuses others
    sent = {f"zoo/{case}/{place}": payload for case, payloads in ZOO.items() for place, payload in enumerate(payloads)}
    sent |= {topic: b"%d" % number for number, topic in enumerate(topics)}
    bench.start()
    for topic, payload in sent.items():
        bench.client.publish(topic, payload)
    bench.publish("lab/oven", 0)
    wait_until(lambda: bench.stored.get("oven", {}).get("lab/oven") == 0, "the last being stored")
    assert bench.state() == "ready"

    assert bench.stop() == 0
    report = verify(bench.file)
    assert (report.damage, report.state, len(ZOO) >= 40) == ([], "sealed", True)
    with open_recording(bench.file) as recording:
        found = {message.topic: message.payload for message in recording.messages() if message.topic in sent}
        assert found == sent
        columns = {topic: recording[topic].to_numpy() for topic in sent if topic in recording}
    with h5py.File(bench.file) as file:
        names = file["topics"].fields("topic")[:]
        undecoded = {
            names[row["topic"]].decode() for row in file["messages"][:] if row["flags"] & layout.FLAG_UNDECODED
        }
    wrong, decoded = set(), 0
    for topic, payload in sent.items():
        fields, envelope = codecs.decode(payload) if topic not in undecoded else ({}, None)
        if envelope is None or envelope.k is None:  # batches have rows, not cells
            for path, value in leaves(fields):
                decoded += 1
                if not any(same(cell, value) for cell in cells(columns.get(topic, {}), path)):
                    wrong.add(topic)
    masked = {f"zoo/beyond int64/{place}" for place in (0, 2, 3)} | {"zoo/text with NUL/0"}
    assert wrong == masked  # what a column cannot hold is missing in it, and exact in the payload
    assert decoded > 120
    assert {topic.split("/")[1] for topic in undecoded} == {
        "batch that lies", "broken cbor", "many fields", "odd envelopes",
    }  # fmt: skip


def leaves(fields: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*above, name))
        else:
            yield (*above, name), value


def cells(columns: dict[str, Any], path: tuple[str, ...]) -> list[Any]:
    """Return what a row has under the name of a field, of each type."""
    names = {layout.link_name(path), layout.link_name(path).removesuffix("@field")}
    return [column[0] for found, column in columns.items() if found in names or found.rpartition("@")[0] in names]


def same(cell: Any, value: Any) -> bool:
    """Return whether a cell holds a value: as it is, or a list or object as its JSON."""
    cell, value = (each.tolist() if hasattr(each, "tolist") else each for each in (cell, value))
    if isinstance(cell, str) and not isinstance(value, str):
        cell = json.loads(cell)
    missing = cell is None or cell != cell
    return (
        missing
        if value is None or value != value
        else cell == value and isinstance(cell, bool) == isinstance(value, bool)
    )


def test_holes_are_listed_exactly(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    dropped = {0, 5, 6, 7, 42, 98, 99}
    for number in range(100):
        if number not in dropped:
            bench.publish("lab/oven", number)
    for number in (50, 51, 50):
        bench.publish("lab/oven", number)
    bench.say("oven", "disconnected", last={"lab/oven": 99})
    wait_until(lambda: bench.missing.get("lab/oven"), "the recorder asking for what is missing")

    assert bench.missing["lab/oven"] == [[0, 0], [5, 7], [42, 42], [98, 99]]
    assert bench.stop() == 0
    (tally,) = verify(bench.file).tallies
    assert tally.holes == [[0, 0], [5, 7], [42, 42], [98, 99]]
    assert (tally.received, tally.stored, tally.duplicates) == (93, 93, 3)
    assert verify(bench.file).complete is False
    assert [(gap["first"], gap["last"]) for gap in open_recording(bench.file).gaps] == [
        (0, 0),
        (5, 7),
        (42, 42),
        (98, 99),
    ]


def test_a_second_attempt_fills_a_hole(bench: Bench) -> None:
    bench.start()
    bench.say("oven", "init")
    for number in (0, 1, 4):
        bench.publish("lab/oven", number)
    wait_until(lambda: bench.missing.get("lab/oven"), "the recorder asking for what is missing")
    for number in (2, 3, 3):
        bench.publish(topics.resend("lab/oven"), number)
    wait_until(lambda: bench.stored["oven"].get("lab/oven") == 4, "confirmation of all")

    assert bench.stop() == 0
    (tally,) = verify(bench.file).tallies
    assert (tally.holes, tally.stored, tally.duplicates) == ([], 5, 1)


def test_a_retained_replay_is_no_reading(bench: Bench) -> None:
    bench.client.publish("lab/setpoint", b'{"celsius": 37}', retain=True)
    bench.say("oven", "ready")
    bench.start()
    bench.client.publish("lab/setpoint", b'{"celsius": 38}', retain=True)
    bench.publish("lab/oven", 1000)
    wait_until(lambda: bench.stored.get("oven", {}).get("lab/oven") == 1000, "confirmation")

    assert bench.stop() == 0
    with open_recording(bench.file) as recording:
        assert recording["lab/setpoint"]["celsius"].tolist() == [38]
        assert [(change.name, change.replay) for change in recording.status if change.name == "oven"] == [
            ("oven", True)
        ]
    report = verify(bench.file)
    assert report.complete
    assert [(tally.first, tally.from_start) for tally in report.tallies if tally.publisher] == [(1000, False)]


@pytest.mark.parametrize("way", ["SIGTERM", "orphaned"])
def test_it_ends_in_order_when_terminated_or_orphaned(bench: Bench, way: str) -> None:
    bench.start()
    for number in range(200):
        bench.publish("lab/oven", number)
    wait_until(lambda: bench.stored.get("oven", {}).get("lab/oven") == 199, "confirmation")
    assert bench.child is not None
    assert bench.child.stdin is not None
    bench.child.send_signal(signal.SIGINT)  # the parent decides, not the terminal

    bench.child.send_signal(signal.SIGTERM) if way == "SIGTERM" else bench.child.stdin.close()

    assert bench.ended(within=8) == 0
    report = verify(bench.file)
    assert (report.state, report.missing, report.damage) == ("sealed", 0, [])
    assert len(report.unproven) == 1  # the oven went on, and nobody heard how far
    assert not report.complete


def test_excluded_topics_are_not_recorded(bench: Bench) -> None:
    bench.start(topics=["lab/#"], exclude=["lab/video/#"])
    for topic in ("lab/oven", "lab/video/1", "other"):
        bench.publish(topic, 0)
    wait_until(lambda: bench.stored.get("oven"), "confirmation")

    assert bench.stop() == 0
    assert list(open_recording(bench.file)) == ["lab/oven"]


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    return mount_disk("256m")


def test_a_full_disk_is_an_alarm_and_recording_resumes_by_itself(broker: Any, small_disk: Path) -> None:
    bench = Bench(broker.url, small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(246 << 20))
    try:
        bench.start(max_segment_bytes=1 << 20)
        number = 0
        while bench.state() != "alert":
            envelope = Envelope("camera", "b1", number, clock.now())
            bench.client.publish("lab/camera", codecs.encode({"frame": os.urandom(20_000)}, envelope))
            number += 1
            # Not far ahead of the disk: what waits elsewhere needs room there once it is free again.
            wait_until(partial(bench.keeps_up, number), "the disk taking it, or an alarm")
            assert number < 5000
        assert "disk is full" in bench.status["detail"] or "writer" in bench.status["detail"]
        ballast.unlink()
        wait_until(lambda: bench.stored.get("camera", {}).get("lab/camera") == number - 1, "all being stored", 30)
        wait_until(lambda: bench.state() == "ready", "the alarm being over", 60)
        assert bench.stop() == 0
        report = verify(bench.file)
        assert (report.complete, report.tallies[0].stored) == (True, number)
    finally:
        bench.close()


def test_below_the_reserve_publishers_keep_what_they_have_and_recording_resumes(broker: Any, small_disk: Path) -> None:
    bench = Bench(broker.url, small_disk)
    alarms: list[list[dict[str, Any]]] = []
    hear = bench.client.on_message

    def listen(message: Message, receipt: Receipt | None) -> object:
        if message.topic == topics.alarm("recorder"):
            alarms.append(json.loads(message.payload)["alarms"] if message.payload else [])
            return None
        return hear(message, receipt)

    bench.client.on_message = listen
    bench.client.subscribe([topics.alarm("recorder")])
    try:
        bench.start(max_segment_bytes=1 << 20, reserve=64 << 20)
        bench.publish("lab/oven", 0)
        wait_until(lambda: bench.stored.get("oven", {}).get("lab/oven") == 0, "the first being stored")
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(200 << 20))
        number = 0
        while bench.state() != "alert":
            number += 1
            bench.publish("lab/oven", number)
            wait_until(
                lambda n=number: bench.state() == "alert" or bench.stored["oven"]["lab/oven"] == n, "storing or alarm"
            )
        stored = bench.stored["oven"]["lab/oven"]
        wait_until(lambda: alarms and "nothing is stored" in str(alarms[-1]), "the alarm", 30)

        assert stored < number
        assert "reserve" in bench.status["detail"]
        assert [(each["kind"], "67.1 MB are kept as a reserve" in each["detail"]) for each in alarms[-1]] == [
            ("disk", True)
        ]
        ballast.unlink()
        wait_until(lambda: bench.stored["oven"]["lab/oven"] == number, "all being stored", 30)
        wait_until(lambda: bench.state() == "ready" and alarms[-1] == [], "the alarm being over", 30)
        assert bench.stop() == 0
        report = verify(bench.file)
        assert (report.complete, report.tallies[0].stored) == (True, number + 1)
    finally:
        bench.close()
