"""Two Mosquittos with the shipped bridge between them: a bench, and the machine that records."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from shipped_mosquitto import BRIDGE, PASSWORDS, Shipped

from ether.cli import main
from ether.errors import BrokerError
from ether.mqtt import Driven

TIMEOUT_S = 40.0
PIPELINE = "ether.cli.demo_pipeline"
USER = {"user": "bench", "password": PASSWORDS["bench"]}


@pytest.fixture
def hall(mosquitto: str, tmp_path: Path, certificates: Any) -> Iterator[Shipped]:
    """The broker of the machine that records."""
    process = Shipped(tmp_path / "hall", certificates)
    process.start()
    yield process
    if process.process is not None:
        process.stop()


@pytest.fixture
def bench(hall: Shipped, tmp_path: Path, certificates: Any) -> Iterator[Shipped]:
    """The broker of the bench, with the bridge to the other one."""
    process = Shipped(tmp_path / "bench", certificates, BRIDGE)
    for shipped, own in (
        ("hall.example:8883", f"127.0.0.1:{hall.tls_port}"),
        ("remote_username bench-1", "remote_username bench"),
        ("remote_password PASSWORD", f"remote_password {PASSWORDS['bench']}"),
        ("topic lab/# out 1", "topic demo/# out 1"),
    ):
        process.change(shipped, own)
    process.start()
    yield process
    if process.process is not None:
        process.stop()


class Session:
    """The session on the machine that records, a process of its own."""

    def __init__(self, folder: Path, broker: Shipped) -> None:
        self.folder = folder
        config = {
            "broker": {"url": f"mqtt://127.0.0.1:{broker.port}", **USER},
            "session": {"name": "hall"},
            "instances": {"collector": {"class_path": f"{PIPELINE}.Collector"}},
        }
        (folder / "hall.yaml").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ether.cli", "up", "hall.yaml"], cwd=folder, stdin=subprocess.DEVNULL
        )

    def end(self) -> tuple[int, Path]:
        """End it in order; returns its exit code and the recording."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        (recording,) = (self.folder / "data").glob("*.h5")
        return code, recording


@pytest.fixture
def session(hall: Shipped, until: Any) -> Iterator[Session]:
    started = Session(hall.folder, hall)
    with_eyes = Driven(hall.url("bench"), "with-eyes").open(TIMEOUT_S)
    with_eyes.subscribe("ether/status/session", timeout=TIMEOUT_S)
    assert with_eyes.wait(lambda: any(b'"ready"' in each.payload for each in with_eyes.messages), TIMEOUT_S)
    with_eyes.close()
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def _gone(hall: Shipped, *names: str) -> bool:
    """Whether the machine that records has heard of the end of all these."""
    statuses = _retained(hall, "ether/status/+")
    return not {f"ether/status/{name}" for name in names} & statuses.keys()


def _retained(broker: Shipped, topic_filter: str) -> dict[str, bytes]:
    looking = Driven(broker.url("bench"), "looking").open(TIMEOUT_S)
    looking.subscribe(topic_filter, timeout=TIMEOUT_S)
    looking.subscribe("ether/reply/looking", timeout=TIMEOUT_S)
    looking.publish("ether/reply/looking", b"")
    assert looking.wait(lambda: any(each.topic == "ether/reply/looking" for each in looking.messages), TIMEOUT_S)
    looking.close()
    return {each.topic: each.payload for each in looking.messages if each.retain}


@pytest.mark.timeout(180)
def test_a_recording_across_a_bridge_is_complete_though_each_broker_is_killed(
    ether: Any, bench: Shipped, hall: Shipped, session: Session, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "bench")  # the session is on another machine
    instances = {
        "generator": {"class_path": f"{PIPELINE}.Generator"},
        "double": {"class_path": f"{PIPELINE}.Processor", "kwargs": {"factor": 2}},
        "triple": {"class_path": f"{PIPELINE}.Processor", "kwargs": {"factor": 3}},
    }
    broker = {"url": f"mqtt://127.0.0.1:{bench.port}", **USER}
    ether.tap({"broker": broker, "session": {"name": "hall"}, "instances": instances}, join_only=True)
    ether.start()

    for broker in (hall, bench):
        _wait_for_more(ether, until)
        broker.kill()
        if broker is hall:  # and with it, for good, one whose last readings nobody has confirmed
            os.kill(ether.instances()["double"].pid, signal.SIGKILL)
        broker.start()
    _wait_for_more(ether, until)
    summary = ether.shutdown()
    until(lambda: _gone(hall, *instances), TIMEOUT_S, "the end of all at the other broker")
    code, recording = session.end()

    count = summary.counts["generator"]["published"]
    with h5py.File(recording) as file:
        numbers = file["data/demo/number/readings/number@field"][:]  # `number` is that of the message
        products = {
            name: file[f"data/demo/product/readings/{name}"][:] for name in ("factor", "number@field", "product")
        }
    triple = products["factor"] == 3
    assert (main(["verify", str(recording)]), code, summary.problems) == (0, 0, ())
    assert sorted(numbers) == list(range(1, count + 1))
    tripled = sorted(products["product"][triple])  # not all: it may be back later than the generator at a new broker
    assert len(tripled) == summary.counts["triple"]["published"] > 0
    assert len(set(tripled)) == len(tripled) and set(tripled) <= set(range(3, 3 * count + 1, 3))
    assert 0 < (~triple).sum() < count
    assert sorted(products["number@field"][~triple]) == list(range(1, (~triple).sum() + 1))


def _wait_for_more(ether: Any, until: Any) -> None:
    def recorded() -> int:
        status = ether.instances().get("recorder")
        return int((status.counts or {}).get("recorded", 0)) if status is not None else 0

    before = recorded()
    until(lambda: recorded() > before + 60, TIMEOUT_S, "readings that are recorded")


@pytest.mark.timeout(120)
def test_each_topic_crosses_one_way_at_once_or_later_and_nothing_comes_back(
    bench: Shipped, hall: Shipped, until: Any
) -> None:
    here, there = (Driven(each.url("bench"), "one", persistent=True).open(TIMEOUT_S) for each in (bench, hall))
    here.subscribe("demo/#", "ether/#", timeout=TIMEOUT_S)
    there.subscribe("demo/#", "ether/#", timeout=TIMEOUT_S)

    # A bridge that is down: what is published meanwhile waits.
    hall.stop()
    for number in range(1_500):
        here.publish("demo/x", b"%d" % number)
    here.publish("ether/status/oven", b"ready", retain=True)
    here.publish("ether/session", b"of the bench", retain=True)
    assert here.flush(TIMEOUT_S)
    hall.start()
    again = Driven(hall.url("bench"), "one", persistent=True).open(TIMEOUT_S)
    again.publish("demo/y", b"of the hall")
    again.publish("ether/status/recorder", b"ready", retain=True)
    assert again.wait(lambda: any(each.topic == "ether/status/oven" for each in again.messages), TIMEOUT_S)
    assert here.wait(lambda: any(each.topic == "ether/status/recorder" for each in here.messages), TIMEOUT_S)
    again.publish("ether/reply/end", b"")
    here.publish("ether/reply/end", b"")
    for each in (here, again):  # a message of either side on both: whatever went round in between has come
        assert each.wait(lambda each=each: sum(got.topic == "ether/reply/end" for got in each.messages) == 2, TIMEOUT_S)

    arrived = [int(got.payload) for got in again.messages if got.topic == "demo/x"]
    assert list(dict.fromkeys(arrived)) == list(range(1_500))
    assert [got.topic for got in again.messages if got.topic in ("demo/y", "ether/session")] == ["demo/y"]
    assert [got.payload for got in here.messages if got.topic == "demo/x"] == [b"%d" % n for n in range(1_500)]
    assert [got.topic for got in here.messages if got.topic in ("demo/y", "ether/session")] == ["ether/session"]
    for each in (here, there, again):
        each.close()


@pytest.mark.timeout(120)
def test_what_the_session_has_taken_back_does_not_return_from_the_bench(
    bench: Shipped, hall: Shipped, until: Any
) -> None:
    """When the bridge comes up, Mosquitto sends every retained message of an `out` topic again."""
    owner = Driven(hall.url("bench"), "owner").open(TIMEOUT_S)
    owner.publish("ether/session", b"yesterday", retain=True)
    owner.flush(TIMEOUT_S)
    owner.close()
    until(lambda: "ether/session" in _retained(bench, "ether/session"), TIMEOUT_S, "it on the bench")

    hall.kill()
    hall.start()  # it has saved nothing of it
    oven = Driven(bench.url("bench"), "oven").open(TIMEOUT_S)
    oven.publish("ether/status/oven", b"ready", retain=True)
    oven.flush(TIMEOUT_S)
    oven.close()

    until(lambda: "ether/status/oven" in _retained(hall, "ether/#"), TIMEOUT_S, "what the bench has to say")
    assert "ether/session" not in _retained(hall, "ether/#")


def test_a_bench_that_finds_no_session_says_so_and_begins_none(
    ether: Any, hall: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ether.guest._JOIN_S", 0.5)
    config = {
        "broker": {"url": f"mqtt://127.0.0.1:{hall.port}", **USER}, "session": {"name": "hall"},
        "instances": {"generator": {"class_path": f"{PIPELINE}.Generator"}},
    }  # fmt: skip

    with pytest.raises(
        BrokerError, match=r"no session 'hall' runs at mqtt://bench@127.0.0.1:\d+; start it there first"
    ):
        ether.tap(config, join_only=True)

    assert _retained(hall, "ether/#") == {}


def test_a_session_that_died_with_its_broker_keeps_no_other_from_starting(
    ether: Any, hall: Shipped, until: Any
) -> None:
    """What a broker has saved says `ready` for ever; only who repeats it lives."""
    ghost = Driven(hall.url("bench"), "ghost").open(TIMEOUT_S)
    ghost.publish("ether/status/session", b'{"state": "ready", "boot": "0ld", "every": 0.5}', retain=True)
    ghost.flush(TIMEOUT_S)
    ghost.close()

    ether.tap(
        {
            "broker": {"url": f"mqtt://127.0.0.1:{hall.port}", **USER}, "record": "off",
            "instances": {"generator": {"class_path": f"{PIPELINE}.Generator"}},
        }
    )  # fmt: skip

    until(lambda: str(ether.instances()["session"].state) == "ready", TIMEOUT_S, "the new session")


def test_a_description_that_comes_back_from_a_former_start_does_not_stand(
    ether: Any, hall: Shipped, until: Any
) -> None:
    ether.tap(
        {
            "broker": {"url": f"mqtt://127.0.0.1:{hall.port}", **USER}, "record": "off",
            "instances": {"generator": {"class_path": f"{PIPELINE}.Generator"}},
        }
    )  # fmt: skip
    topic = "ether/about/generator"
    (own,) = _retained(hall, topic).values()
    bridge = Driven(hall.url("bench"), "bridge").open(TIMEOUT_S)
    bridge.subscribe(topic, timeout=TIMEOUT_S)
    assert bridge.wait(lambda: bool(bridge.messages), TIMEOUT_S)
    bridge.messages.clear()

    bridge.publish(topic, b'{"ether": 1, "boot": "0ld", "class": "Former"}', retain=True)

    assert bridge.wait(lambda: bridge.messages[-1:] and bridge.messages[-1].payload == own, TIMEOUT_S)
    assert _retained(hall, topic) == {topic: own}
    bridge.close()
