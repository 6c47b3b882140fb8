"""Messages that cannot be handled: reported, counted, and survived."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from ether import ether_pub, ether_sub
from ether.codecs import CBOR_MAGIC


class Point(BaseModel):
    x: float
    y: float


class Sink:
    def __init__(self) -> None:
        self.got: list[Any] = []

    @ether_sub(topic="poison/keyword")
    def keyword(self, x: int, y: int) -> None:
        self.got.append((x, y))

    @ether_sub(topic="poison/model")
    def model(self, point: Point) -> None:
        self.got.append((point.x, point.y))

    @ether_sub(topic="poison/raising")
    def raising(self, x: int, y: int) -> None:
        if x == 0:
            raise ZeroDivisionError("x is 0")
        self.got.append((x, y))

    @ether_sub(topic="poison/exiting")
    def exiting(self, x: int, y: int) -> None:
        if x == 0:
            raise SystemExit(3)
        self.got.append((x, y))

    @ether_sub(topic="poison/travel")
    @ether_pub(topic="poison/travelled")
    def travel(self, x: int) -> Any:
        self.got.append(x)
        return object() if x == 0 else x

    @ether_sub(topic="poison/processor")
    @ether_pub(topic="poison/result")
    def processor(self, x: int, y: int) -> int:
        self.got.append((x, y))
        return "many" if x == 0 else x  # type: ignore[return-value]  # what the test is about


@pytest.fixture
def sink(add):
    return add(Sink(), "sink")


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("keyword", b'{"x": "many", "y": 1}', "Sink.keyword: field `x`: Input should be a valid integer"),
        ("keyword", b'{"x": 1.5, "y": 1}', "Sink.keyword: field `x`"),
        ("keyword", b'{"x": 1}', "Sink.keyword: field `y` is missing; got ['x']"),
        ("keyword", b"{}", "Sink.keyword: field `x` is missing; got []; field `y` is missing"),
        ("keyword", b"42", "Sink.keyword: field `x` is missing; got ['value']"),
        ("keyword", b"[1, 2]", "Sink.keyword: field `x` is missing"),
        ("keyword", b'{"x": 1, "y":', "Sink.keyword: field `x` is missing; got ['value']"),
        ("keyword", b"\xff\xfe\x00", "Sink.keyword: field `x` is missing"),
        ("keyword", CBOR_MAGIC + b"\xff\xff", "damaged CBOR"),
        ("keyword", CBOR_MAGIC + b"\xa1\x61x\xd8\x51\x41\x00", "damaged CBOR"),
        ("keyword", CBOR_MAGIC, "damaged CBOR"),
        ("keyword", b"[" * 100_000, "Sink.keyword: field `x` is missing"),
        ("keyword", b'{"x": 1, "y": "z", "_ether": {"by": "a", "b": "b", "n": 0, "k": "two"}}', "field `y`"),
        ("model", b'{"x": 1}', "Sink.model: field `y` is missing"),
        ("model", b"42", "Sink.model:"),
        ("model", b"null", "Sink.model:"),
    ],
)  # fmt: skip
def test_a_message_that_does_not_fit_is_rejected_and_the_next_is_handled(
    shared, sink, until, raw, caplog, topic, payload, reason
):
    client = raw(shared.info()["broker"]["url"])

    client.publish(f"poison/{topic}", payload)
    client.publish(f"poison/{topic}", b'{"x": 1, "y": 2}')

    until(lambda: sink.got)
    (line,) = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert sink.got == [(1, 2)]
    assert f"sink: message on 'poison/{topic}' from a client that does not say its name rejected: " in line
    assert reason in line


def test_a_rejection_names_the_publisher_and_is_counted_in_the_status(shared, sink, until, caplog):
    shared.pub({"x": "many", "y": 1}, "poison/keyword")

    until(lambda: (shared.instances()["sink"].counts or {}).get("rejected") == 1)
    line = caplog.records[-1].getMessage()
    assert line == (
        "sink: message on 'poison/keyword' from session, number 0 rejected: Sink.keyword: field `x`: "
        "Input should be a valid integer, unable to parse string as an integer, got 'many' (str)"
    )


def test_a_batch_that_is_none_is_rejected(shared, sink, until, raw, caplog):
    client = raw(shared.info()["broker"]["url"])

    client.publish(
        "poison/keyword", b'{"x": [1], "y": [1, 2], "_ether": {"by": "a", "b": "b", "n": 7, "k": 2, "t": [1.0, 2.0]}}'
    )
    client.publish("poison/keyword", b'{"x": 1, "y": 2}')

    until(lambda: sink.got == [(1, 2)])
    assert (
        "sink: message on 'poison/keyword' from a, number 7 rejected: field 'x' of a batch of 2 is no array of 2"
        in caplog.text
    )


def test_a_handler_that_raises_turns_the_status_to_alert_and_lives_on(shared, sink, until, caplog):
    shared.pub({"x": 0, "y": 1}, "poison/raising")
    until(lambda: shared.instances()["sink"].state == "alert")
    alert = shared.instances()["sink"]

    shared.pub({"x": 1, "y": 1}, "poison/raising")

    until(lambda: sink.got == [(1, 1)])
    where = "(at a message on 'poison/raising' from session, number "
    assert alert.detail.startswith(f"Sink.raising raised ZeroDivisionError: x is 0 {where}")
    assert "Traceback (most recent call last)" in alert.detail
    assert alert.counts["failed"] == 1
    assert f"sink: Sink.raising raised ZeroDivisionError: x is 0 {where}" in caplog.text


def test_an_alert_ends_when_the_method_has_worked_again_for_a_while(shared, sink, until):
    shared.pub({"x": 0, "y": 1}, "poison/raising")
    until(lambda: shared.instances()["sink"].state == "alert")

    def again() -> bool:
        shared.pub({"x": 1, "y": 1}, "poison/raising")
        return shared.instances()["sink"].state == "ready"

    until(again)


def test_a_handler_that_exits_is_a_failure_and_not_the_end_of_the_instance(shared, sink, until):
    shared.pub({"x": 0, "y": 1}, "poison/exiting")
    shared.pub({"x": 1, "y": 1}, "poison/exiting")

    until(lambda: sink.got == [(1, 1)])
    until(lambda: shared.instances()["sink"].state == "alert")


def test_an_invalid_result_of_a_processor_is_reported_and_not_published(shared, sink, until, wire):
    out = wire(shared, "poison/result")

    shared.pub({"x": 0, "y": 1}, "poison/processor")
    shared.pub({"x": 1, "y": 1}, "poison/processor")

    until(lambda: len(out) == 1)
    until(lambda: shared.instances()["sink"].state == "alert")
    assert out.fields == [{"value": 1}]
    assert "Sink.processor returned what its annotation forbids" in shared.instances()["sink"].detail


def test_a_result_that_cannot_travel_is_one_line_each_time(shared, sink, until, caplog, wire):
    out = wire(shared, "poison/travelled")

    for x in (0, 0, 7):
        shared.pub({"x": x}, "poison/travel")

    until(lambda: out.fields == [{"value": 7}])
    lines = [record for record in caplog.records if "cannot travel" in record.getMessage()]
    assert len(lines) == 2
    for line in lines:
        assert line.getMessage().startswith("sink: Sink.travel raised PayloadError: a object cannot travel")
        assert line.exc_info is None


def test_one_method_that_rejects_keeps_no_other_from_its_message(shared, add, until, raw):
    class Pair(Sink):
        @ether_sub(topic="poison/keyword")
        def also(self, x: str) -> None:
            self.got.append(x)

    pair = add(Pair())

    raw(shared.info()["broker"]["url"]).publish("poison/keyword", b'{"x": "text", "y": 1}')

    until(lambda: pair.got)
    assert pair.got == ["text"]


@pytest.mark.parametrize("verb", ["every", "ping", "dance"])
@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"\xd9\xd9\xf7\xff", b'{"every": "soon"}'])
def test_damaged_commands_disturb_nobody(shared, sink, until, raw, caplog, verb, payload):
    client = raw(shared.info()["broker"]["url"])

    client.publish(f"ether/command/sink/{verb}", payload)
    client.publish("poison/keyword", b'{"x": 1, "y": 2}')

    until(lambda: sink.got == [(1, 2)])
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize(
    "topic", ["ether/status/sink", "ether/about/sink", "ether/status/other", "ether/run", "ether/session"]
)
@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"\xff", b"\xd9\xd9\xf7\xff", b'{"state": "odd"}', b'{"state": "lost"}']
)
def test_damaged_statuses_and_descriptions_disturb_nobody(shared, sink, until, raw, caplog, topic, payload):
    client = raw(shared.info()["broker"]["url"])

    client.publish(topic, payload)
    client.publish("poison/keyword", b'{"x": 1, "y": 2}')

    until(lambda: sink.got == [(1, 2)])
    until(lambda: {"session", "sink"} <= shared.instances().keys(), 1.0)
    assert "an error in a callback" not in caplog.text
    assert shared.info()["broker"]["url"].startswith("mqtt://127.0.0.1:")
