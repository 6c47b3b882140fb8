"""A method that is slower than what it subscribed to: bounded, told to everybody, and lossless where that was asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ether import ether_sub
from ether.decorators import make_mark
from ether.errors import ComponentError


class Gate:
    """Handles nothing until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.got: list[int] = []

    def handle(self, value: int) -> None:
        self.open.wait(30)
        self.got.append(value)


def gated(**keywords: Any) -> Gate:
    """Return a gate whose class subscribes with these keywords."""
    marked = ether_sub(**keywords)(lambda self, value: Gate.handle(self, value))
    marked.__annotations__ = {"value": int}
    return type("Gated", (Gate,), {"take": marked})()


def tap(ether: Any, kind: str) -> Any:
    ether.tap({"broker": kind, "record": "off", "session": {"stop_timeout": "5s"}})
    return ether


def counts(session: Any, name: str) -> dict[str, float]:
    return dict(session.instances()[name].counts or {})


def test_a_slow_subscriber_loses_nothing_and_holds_little(ether, broker_kind, until) -> None:
    """The broker keeps what does not fit; it comes once there is room, in order, with nobody's connection lost."""
    tap(ether, broker_kind)
    gate = gated(topic="flood", queue=50)
    ether.add(gate, "slow")
    window = 10_000  # so many does either broker send before it is acknowledged
    room = window + 51  # one is at the gate

    for number in range(window + 1_000):
        ether.pub(number, "flood")
    until(lambda: counts(ether, "slow").get("received", 0) >= room - 1, 20.0, "a full queue")
    then = ether.instances()["slow"].counts
    until(lambda: ether.instances()["slow"].counts is not then, 5.0, "a further status")
    assert counts(ether, "slow")["received"] <= room
    gate.open.set()

    until(lambda: len(gate.got) == window + 1_000, 20.0, "all of them")
    assert gate.got == list(range(window + 1_000))
    until(lambda: counts(ether, "slow").get("handled") == window + 1_000)
    assert "dropped" not in counts(ether, "slow")


@pytest.mark.parametrize(
    ("keywords", "kept", "counted"),
    [
        ({"policy": "latest"}, [0, 199], "skipped"),
        ({"policy": "drop-oldest", "queue": 10}, [0, *range(190, 200)], "dropped"),
        ({"qos": 0, "queue": 10}, [0, *range(190, 200)], "dropped"),
    ],
)
def test_what_a_policy_leaves_out_is_counted(shared, add, until, caplog, keywords, kept, counted) -> None:
    gate = gated(topic="flood", **keywords)
    add(gate, name := f"gate-{len(caplog.records)}-{counted}-{len(keywords)}")
    shared.pub(0, "flood")
    until(lambda: counts(shared, name).get("received") == 1, 5.0, "the first one, at the gate")

    for number in range(1, 200):
        shared.pub(number, "flood")
    until(lambda: counts(shared, name).get("received") == 200, 5.0, "the last one")
    gate.open.set()

    until(lambda: counts(shared, name).get("handled") == len(kept), 5.0)
    assert gate.got == kept
    assert counts(shared, name)[counted] == 200 - len(kept)
    assert ("is too slow" in caplog.text or "the oldest are dropped" in caplog.text) is (counted == "dropped")


def test_how_long_methods_take_is_told(shared, add, until) -> None:
    class Busy:
        @ether_sub(topic="work")
        def work(self, seconds: float) -> None:
            threading.Event().wait(seconds)

    add(Busy(), "busy")
    for _ in range(20):
        shared.pub({"seconds": 0.02}, "work")

    until(lambda: counts(shared, "busy").get("handled") == 20, 10.0)
    found = counts(shared, "busy")
    assert 20 <= found["handle_ms_p50"] <= found["handle_ms_p99"] < 2_000


@pytest.mark.parametrize(
    ("keywords", "complaint"),
    [
        ({"policy": "drop"}, r"policy='drop': write block, drop-oldest or latest"),
        ({"policy": "block", "qos": 0}, r"policy='block' needs qos=1: the broker does not keep messages of QoS 0"),
        ({"policy": "latest", "queue": 3}, r"policy='latest' keeps one message of each topic; drop queue="),
        ({"queue": 0}, r"queue=0: a number of messages, 1 or more"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_in_one_line(keywords, complaint) -> None:
    from ether.component import Component

    class Sink:
        def take(self, value: int) -> None: ...

    with pytest.raises(ComponentError, match=rf"Sink\.take: {complaint}$"):
        Component.of(Sink, {"take": [make_mark("ether_sub", topic="t", **keywords)]})
