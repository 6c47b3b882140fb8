"""A broker that drops messages: who hears of it, and who is not bothered."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ether import brokers
from ether.brokers import drops
from ether.mqtt import Driven
from ether.recorder.reader import open_recording
from ether.runtime import running
from ether.testing.broker_contract import Client, MosquittoProcess

TIMEOUT_S = 20.0
TICKING: dict[str, Any] = {"instances": {"ticker": {"class_path": "lab_parts.Ticker"}}}


@pytest.fixture
def tight(mosquitto: str, tmp_path: Path):
    """A Mosquitto with room for ten messages, and a subscriber with a session that acknowledges nothing."""

    class Tight(MosquittoProcess):
        CONFIGURATION = """
            listener {port} {host}
            allow_anonymous true
            max_queued_messages 10
            sys_interval 1
        """

    process = Tight(tmp_path)
    process.start()
    url = f"mqtt://127.0.0.1:{process.port}"
    stalled = Driven(url, "stalled-screen", persistent=True, acknowledges=False).open(TIMEOUT_S)
    assert stalled.subscribe("flood", timeout=TIMEOUT_S)
    yield url
    stalled.close()
    process.stop()


def _flood(url: str, count: int) -> None:
    with_flood = Driven(url, "flood").open(TIMEOUT_S)
    for _ in range(count):
        with_flood.publish("flood", b"x")
    assert with_flood.flush(TIMEOUT_S)
    with_flood.close()


def test_what_mosquitto_drops_is_an_alarm_a_log_line_and_in_the_recording(
    ether: Any,
    tight: str,
    until: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(drops, "_OVER_S", 3.0)
    _flood(tight, 100)  # before the session, and so none of its business
    with_count = Driven(tight, "with-count").open(TIMEOUT_S)
    with_count.subscribe(brokers.DROPPED, timeout=TIMEOUT_S)
    assert with_count.wait(lambda: with_count.messages[-1:] and with_count.messages[-1].payload == b"70", TIMEOUT_S)
    with_count.close()
    ether.tap({**TICKING, "broker": tight, "record": {"exclude": ["flood"]}})
    before = ether.info()["alarms"]

    recorder = ether.instances()["recorder"].pid
    os.kill(recorder, signal.SIGSTOP)
    _flood(tight, 500)

    until(lambda: ether.info()["alarms"], TIMEOUT_S, "the alarm")
    os.kill(recorder, signal.SIGCONT)
    until(lambda: ether.info()["alarms"] == [], TIMEOUT_S, "its end")
    summary = ether.shutdown()
    lines = [each.message for each in caplog.records if brokers.DROPPED in each.message]
    with open_recording(summary.recording) as recording:
        told = [each for each in recording.annotations if "alarm" in each.tags]
        complete = recording.verify().complete
    assert before == []
    assert [each.levelno for each in caplog.records if brokers.DROPPED in each.message] == [
        logging.ERROR,
        logging.WARNING,
    ]
    assert "the broker has dropped" in lines[0] and "max_queued_messages" in lines[0] and "\n" not in lines[0]
    assert "it had dropped " in lines[1]
    assert [(each.t1 is not None, each.text) for each in told] == [
        (False, lines[0]),
        (True, lines[1].partition(", for")[0]),
    ]
    assert complete  # though the recorder was among those for whom it dropped
    assert "being dropped for client stalled-screen" in (tmp_path / "broker.err").read_text()


def test_what_the_embedded_broker_drops_is_an_alarm(ether: Any, until: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A dashboard at QoS 0 that reads nothing is the only one who loses, but it does."""
    ether.tap({**TICKING, "broker": {"kind": "embedded", "limits": {"queue": "1MB"}}, "record": "off"})
    (entry,) = running()
    port = int(entry["url"].rpartition(":")[2])
    screen, camera = Client("127.0.0.1", port), Client("127.0.0.1", port)
    screen.connect("slow-screen")
    screen.subscribe(("camera", 0))
    camera.connect()

    for _ in range(20):  # the system's buffers take some of it
        camera.publish("camera", bytes(1 << 20), 0)

    until(lambda: ether.info()["alarms"], 30.0, "the alarm")
    (alarm,) = ether.info()["alarms"]
    assert (alarm["by"], alarm["topic"], alarm["kind"]) == ("session", brokers.DROPPED, "dropped")
    assert "raise broker.limits.queue" in alarm["detail"]
    for each in (screen, camera):
        each.abort()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What follows the count of a broker, and a clock that stands."""

    class Counter(brokers.Drops):
        now = 1000.0

        def dropped(self, *counts: int) -> list[str]:
            for count in counts:
                self.receive(b"%d" % count)
            return [each.over for each in self.look()]

    found = Counter("it")
    monkeypatch.setattr(drops.clock, "monotonic", lambda: found.now)
    return found


def test_only_what_is_dropped_from_now_on_counts(counter: Any) -> None:
    assert counter.dropped(4711, 4711) == []
    assert counter.dropped(4712) == ["it had dropped 1 message"]
    assert counter.dropped(5711) == ["it had dropped 1,000 messages"]


def test_a_broker_that_starts_again_counts_from_0(counter: Any) -> None:
    assert counter.dropped(4711, 0) == []
    assert counter.dropped(3) == ["it had dropped 3 messages"]


def test_it_is_over_after_a_minute_and_begins_anew(counter: Any) -> None:
    counter.dropped(0, 7)
    counter.now += 61

    assert counter.dropped() == []
    assert counter.dropped(8) == ["it had dropped 1 message"]


def test_what_is_no_number_is_no_count(counter: Any) -> None:
    counter.receive(b"many")

    assert counter.look() == []
