"""What is guaranteed to each publisher, over both brokers as they are delivered."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_parts import FaultBench, wait_until

from ether import clock, codecs
from ether.model import Envelope
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify


def numbered(number: int, by: str) -> bytes:
    return codecs.encode({"value": number}, Envelope(by, "b1", number, clock.now()))


def test_levels_are_computed_written_and_shown(ether, workdir, plain_broker, raw, until):
    ether.tap({"broker": plain_broker.url, "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    client = raw(plain_broker.url)
    client.publish("ether/about/board", b'{"ether": 1, "boot": "b1", "class": "Board", "outbox": "memory"}')
    client.publish("foreign/fast", b"1", qos=0)
    client.publish("foreign/kept", b"2", qos=1)
    client.publish("foreign/exact", b"3", qos=2)
    client.publish("numbered/fast", numbered(0, "meter"), qos=0)
    client.publish("numbered/kept", numbered(0, "meter"), qos=1)
    client.publish("ring", numbered(0, "board"), qos=0)
    ether.pub({"x": 1}, "echo/in")
    until(lambda: ether.info()["recorder"].get("L3", 0) >= 2, 10.0, "the recorder's count of levels")

    live = json.loads(subprocess.check_output([sys.executable, "-m", "ether.cli", "status", "--json"]))
    summary = ether.shutdown()

    assert [row["level"] for row in live["instances"] if row["name"] == "echo"] == ["L3"]
    assert {level: live["recorder"][level] for level in ("L0", "L1", "L2", "L3")} == {
        "L0": 2,
        "L1": 3,
        "L2": 1,
        "L3": 2,
    }
    levels = {tally.topic: (tally.publisher, tally.level) for tally in verify(summary.recording).tallies}
    assert levels == {
        "foreign/fast": ("", "L0"), "foreign/kept": ("", "L1"), "foreign/exact": ("", "L1"),
        "numbered/fast": ("meter", "L0"), "numbered/kept": ("meter", "L1"), "ring": ("board", "L2"),
        "echo/in": ("session", "L3"), "echo/out": ("echo", "L3"),
    }  # fmt: skip
    with open_recording(summary.recording) as recording:
        found = {row["name"]: row["level"] for row in recording.publishers}
    assert found == {"meter": "L0", "board": "L2", "session": "L3", "echo": "L3"}


@pytest.fixture
def bench(nothing_left: None, plain_broker: Any, tmp_path: Path) -> Iterator[FaultBench]:
    bench = FaultBench(plain_broker, tmp_path, seed=1)
    yield bench
    bench.close()


def test_l1_a_recorder_killed_under_a_foreign_publisher_of_qos_1_and_2_loses_nothing_that_the_broker_took(bench, raw):
    client = raw(bench.url)
    taken: list[int] = []
    done = threading.Event()

    def publish() -> None:
        while not done.wait(0.003):  # Mosquitto as it is delivered keeps 1,000 messages for who is away
            client.publish("foreign", str(len(taken)), qos=1 + len(taken) % 2)
            taken.append(len(taken))

    bench.start("recorder")
    wait_until(bench.ready, "the recorder being ready")
    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(3):
            so_far = len(taken)
            wait_until(lambda wanted=so_far + 60: len(taken) > wanted, "messages")
            bench.kill("recorder")
            bench.start("recorder")
        so_far = len(taken)
        wait_until(lambda: len(taken) > so_far + 60, "messages")
    finally:
        done.set()
        thread.join()
    wait_until(bench.ready, "the recorder being ready")

    assert bench.stop("recorder") == 0
    report = bench.verify()
    assert report["complete"]
    assert [(tally["topic"], tally["level"]) for tally in report["tallies"]] == [("foreign", "L1")]
    with open_recording(bench.file) as recording:
        assert set(recording["foreign"]["value"].tolist()) == set(taken)  # at least once: they bear no numbers
