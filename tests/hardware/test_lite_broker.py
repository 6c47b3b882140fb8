"""Boards in a MicroPython of 32 KB, on real brokers, into a recording: whatever happens, it has every reading once.

One session for each broker: it is killed and stays away for 2 s, the recorder for 3 s more; Mosquitto freezes for 5 s later.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from ether import topics
from ether.mqtt import Connection
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify

pytestmark = pytest.mark.timeout(120)

FAST = {"keepalive": 2, "every": 2, "buffer": 400}


class Story:
    """What boards and their session went through, and what is known of it afterwards."""

    def __init__(self, kind: str, place: Any, start_broker: Any, start_board: Any, until: Any) -> None:
        from ether import ether

        self.until = until
        self.broker = start_broker(kind)
        self.seen: dict[str, list[Any]] = {}
        self.outages: dict[str, tuple[int, int]] = {}
        """Name of what the broker did to the seconds of the wall clock from which until when it did not serve."""
        panel = {"class_path": "lab_parts.Fragile"}
        ether.tap({"broker": self.broker.url, "session": {"stop_timeout": "10s"}, "instances": {"panel": panel}})
        try:
            ether.start()
            subscription = ether.subscribe("keeps/#", lambda each: self.seen.setdefault(each.topic, []).append(each))
            self.play(ether, start_board)
            self.instances = ether.instances()
            subscription.stop()
        finally:
            self.summary = ether.shutdown()
        report = verify(self.summary.recording)
        self.tallies = {tally.topic: tally for tally in report.tallies}
        self.report = report

    def play(self, ether: Any, start_board: Any) -> None:
        port = self.broker.port
        kept = {"port": port, "total": 1000, "before_wrap": 4000, "pid": 65529, "options": {**FAST, "ring": 96}}
        self.boards = {
            "keeps": start_board(name="keeps", **kept),
            "drops": start_board(name="drops", port=port, total=10_000, every=0.04, options={**FAST, "ring": 12}),
            "dies": start_board(name="dies", port=port, total=10_000, options=FAST),
        }
        self.until(lambda: all(name in ether.instances() for name in self.boards), 20, "the boards")
        self.until(lambda: len(self.seen.get("keeps/count", "")) > 3, 20, "readings")
        self.boards["dies"].kill()
        self.until(lambda: ether.instances()["dies"].state == "lost", 10, "its will")
        self.restart(ether)
        self.until(lambda: np.max(self.seen["keeps/count"][-1].fields["value"]) > 60, 20, "readings after the restart")
        if self.broker.kind == "mosquitto":
            self.recover()
            self.freeze()
        self.switch(ether, "keeps", b"true", lambda: self.seen.get("keeps/lit"))
        self.reports = {}
        for name in ("keeps", "drops"):
            self.switch(ether, name, b"false", lambda name=name: self.boards[name].process.poll() is not None)
            self.reports[name] = self.boards[name].report()

    def switch(self, ether: Any, name: str, on: bytes, done: Any) -> None:
        """Order a board until it has heard: while it is not connected, nobody does."""
        for _ in range(100):
            if done():
                return
            ether._client.connection.publish(f"{name}/led", on)
            time.sleep(0.1)
        pytest.fail(f"{name} does not hear")

    @contextlib.contextmanager
    def outage(self, name: str) -> Iterator[None]:
        began = time.time()
        yield
        self.outages[name] = int(began), int(time.time())

    def longest_polls(self) -> dict[str, int]:
        """Return the longest poll() of any board in each outage and in the two seconds after it, and of all.

        In ms; 20 stands for all that were shorter.
        """
        polls = [poll for name in self.reports for poll in self.boards[name].slow_polls()]
        spans = {"all": (0, int(time.time())), **self.outages}
        return {
            name: max([20, *(took for took, at in polls if began <= at <= ended + 2)])
            for name, (began, ended) in spans.items()
        }

    def restart(self, ether: Any) -> None:
        recorder = psutil.Process(ether.instances()["recorder"].pid)
        recorder.suspend()
        with self.outage("restart"):
            self.broker.kill()
            time.sleep(2)  # the outage that is to be survived, and so is the next
            self.broker.start()
        time.sleep(3)
        recorder.resume()

    def recover(self) -> None:
        """Wait until the recorder is back and has what came meanwhile: the ring would not last for both outages."""
        told: list[int] = []
        watch = Connection(self.broker.url, "watch")
        watch.on_message = lambda message, _: told.append(json.loads(message.payload)["topics"].get("keeps/count", -1))
        watch.subscribe([topics.stored("keeps")])
        last = np.max(self.seen["keeps/count"][-1].fields["value"])
        with contextlib.closing(watch):
            watch.open()
            self.until(lambda: max(told, default=-1) >= last, 20, "the recorder")

    def freeze(self) -> None:
        with self.outage("freeze"):
            os.kill(self.broker.process.pid, signal.SIGSTOP)
            time.sleep(5)  # longer than the boards' keepalive and than a new connection may take
            os.kill(self.broker.process.pid, signal.SIGCONT)


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def story(request, place, start_broker, start_board, until):
    return Story(request.param, place, start_broker, start_board, until)


def test_nothing_is_missing_and_nothing_twice_over_restart_and_freeze(story):
    tally = story.tallies["keeps/count"]

    assert story.summary.problems == ()
    taken = story.reports["keeps"]["taken"]
    assert (tally.first, tally.last, tally.stored, tally.missing) == (0, taken - 1, taken, 0)
    assert taken > 60
    assert story.reports["keeps"]["connections"] > (2 if story.broker.kind == "mosquitto" else 1)
    assert set(story.reports["keeps"]["counts"]) <= {"missed"}  # a busy machine comes too late for some samples


def test_what_a_full_ring_dropped_is_reported_as_what_is_missing(story):
    tally = story.tallies["drops/count"]
    (said,) = [each for each in story.report.reported if each["publisher"] == "drops"]

    report = story.reports["drops"]
    assert (tally.stored + tally.missing, tally.missing) == (report["taken"], report["counts"]["dropped"])
    assert said["dropped"] == tally.missing > 50  # the outage was far longer than the ring


def test_nothing_waits_for_the_network(story):
    """A client that waits does so for the length of an outage; 50 ms alone, and ten times that under load."""
    longest = story.longest_polls()
    print(f"\nlongest poll() with {story.broker.kind}, ms: {longest}")  # -s shows it
    assert max(longest.values()) < 500


def test_commands_come_after_restart_and_freeze(story):
    assert story.seen["keeps/lit"][0].fields == {"value": True}


def test_packet_ids_and_ticks_start_over(story):
    assert story.reports["keeps"]["pid"] < 30_000  # it began at 65530
    with open_recording(story.summary.recording) as recording:
        stream = recording["keeps/count"]
        order = np.argsort(stream.values("value")[0])  # what is sent again comes behind what is new
        steps = np.diff(stream.time_device[order]) / 1e6
    assert (steps > 0).all()
    assert steps.max() < 1000


def test_board_is_a_member(story):
    keeps, dies = story.instances["keeps"], story.instances["dies"]

    assert dies.state == "lost"
    assert (keeps.state, keeps.class_name, keeps.about.outbox) == ("disconnected", "Board", "memory")
    assert keeps.about.publishes["keeps/count"] == {"fields": {"value": {"type": "integer"}}, "every": 0.1}
    assert keeps.about.subscribes == {"keeps/led": {"fields": {"value": {"type": "boolean"}}, "methods": ["led"]}}
