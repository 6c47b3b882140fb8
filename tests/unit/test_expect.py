"""Expectations: a stream that is missing, silent, slow, fast, from somebody else or in another unit is told."""

from __future__ import annotations

from typing import Any

import pytest

from ether import clock, codecs
from ether.config import Config
from ether.expect import Expectations
from ether.model import About, Envelope, Message, State, Status


class Bench:
    """Expectations of one topic, and a clock that stands until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **expect: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        config = Config.load({"expect": {"lab/oven": expect}})
        self.expected = Expectations(config.expect)
        self.abouts = {
            "oven": About("oven", publishes={"lab/oven": {"fields": {"celsius": {"type": "number", "unit": "degC"}}}})
        }
        self.statuses = {"oven": Status(State.READY)}
        self.number = 0

    def come(self, hz: float, seconds: float, by: str | None = "oven", k: int | None = None) -> None:
        for _ in range(round(hz * seconds)):
            envelope = Envelope(by, "b1", self.number, k=k) if by else None
            self.number += 1
            self.expected.receive(Message("lab/oven", codecs.encode({"celsius": 1.0}, envelope)))
            self.now += 1 / hz

    def kinds(self) -> list[str]:
        return [each.kind for each in self.expected.look(self.abouts, self.statuses)]

    def detail(self) -> str:
        (found,) = self.expected.look(self.abouts, self.statuses)
        return found.detail


def test_nothing_is_missed_before_the_begin_nor_for_some_seconds_after(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, rate="10Hz")
    bench.now += 100
    assert bench.kinds() == []

    bench.expected.begin()

    bench.now += 4
    assert bench.kinds() == []
    bench.now += 2
    assert bench.kinds() == ["missing"]
    assert bench.detail() == "nothing has come for 6 s: oven is ready"


@pytest.mark.parametrize(
    ("abouts", "statuses", "why"),
    [
        ({}, {}, "oven is not there"),
        ({}, {"oven": Status(State.READY)}, "oven is ready, but does not publish it"),
        ({}, {"oven": Status(State.LOST, detail="exit code 7\nI die")}, "oven is lost (exit code 7)"),
    ],
)
def test_a_missing_stream_says_what_is_known_of_its_publisher(
    monkeypatch: pytest.MonkeyPatch, abouts: dict[str, About], statuses: dict[str, Status], why: str
) -> None:
    bench = Bench(monkeypatch, **{"from": "oven"})
    bench.abouts, bench.statuses = abouts, statuses
    bench.expected.begin()
    bench.now += 10

    assert bench.detail() == f"nothing has come for 10 s: {why}"


@pytest.mark.parametrize(
    ("hz", "kinds"), [(10.0, []), (9.1, []), (8.0, ["slow"]), (10.9, []), (12.5, ["fast"]), (0.0, ["missing"])]
)
def test_a_rate_is_held_within_its_tolerance(monkeypatch: pytest.MonkeyPatch, hz: float, kinds: list[str]) -> None:
    bench = Bench(monkeypatch, rate="10Hz ±10%")
    bench.expected.begin()
    if hz:
        bench.come(hz, 20.0)
    else:
        bench.now += 20.0

    assert bench.kinds() == kinds


def test_readings_of_a_batch_count_each(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, rate="100Hz")
    bench.expected.begin()

    bench.come(1.0, 20.0, k=100)

    assert bench.kinds() == []


def test_a_slow_stream_is_measured_over_enough_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, rate="2/min")
    bench.expected.begin()
    bench.come(1 / 30, 600.0)
    assert bench.kinds() == []

    bench.come(1 / 45, 900.0)
    assert bench.kinds() == ["slow"]
    bench.now += 120.0

    assert bench.detail() == "nothing for 165 s, 2/min expected: oven is ready"


def test_publisher_and_unit_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, **{"from": "oven", "unit": {"celsius": "K"}})
    bench.expected.begin()
    bench.come(1.0, 2.0)
    assert bench.detail() == "celsius is in degC, K expected"

    bench.come(1.0, 1.0, by="stove")
    assert bench.detail() == "comes from stove, not from oven"

    bench.come(1.0, 1.0, by=None)
    assert bench.detail() == "comes from a client that does not say its name, not from oven"


def test_retained_replays_are_no_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, required=True)
    bench.expected.begin()
    bench.expected.receive(Message("lab/oven", b"1", retain=True))
    assert bench.expected.never_came() == ["lab/oven"]

    bench.expected.receive(Message("lab/oven", b"1"))

    assert bench.expected.never_came() == []
