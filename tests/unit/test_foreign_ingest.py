"""What ingest makes of facts, without a broker: descriptions, states, limits."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from ether import codecs
from ether.foreign import ingest
from ether.foreign.facts import Alive, Taken
from ether.foreign.ingest import Ingest
from ether.model import About, Message, State, Status
from ether.publisher import Publisher


class Voice:
    """Stands in for a member: keeps what was said."""

    def __init__(self, name):
        self.name, self.boot, self.state, self.detail = name, "b", State.INIT, ""
        self.counts, self.said, self.abouts = Counter(), [], []
        self.connection = SimpleNamespace(
            client_id=name, check=lambda topic, payload: None, publish=lambda *each: self.said.append(each) or True
        )
        self.publisher = Publisher(self.connection, name, self.boot, self.counts)

    def open(self, timeout):
        """It always can."""

    def set_about(self, about):
        self.abouts.append(about.publishes)

    def set_status(self, state, detail=""):
        self.state, self.detail = state, detail


@pytest.fixture
def taking(monkeypatch):
    """An ingest that makes no connections."""
    monkeypatch.setattr(Ingest, "_member", lambda self, name, every: Voice(name))
    monkeypatch.setattr(ingest, "Connection", lambda *_args, **_more: SimpleNamespace(on_message=None))
    orders = {
        "url": "", "tls": None, "namespace": "", "start_timeout": 1.0, "outbox": None, "taken": ["session"],
        "sources": [{"rules": [{"match": "a/{dev}"}], "ignore": ["not_*"]}],
    }  # fmt: skip
    return Ingest(orders)


def settle(taking, fact, retain=False):
    taking._try(
        Message("a/x", b"", retain=retain),
        taking._settle,
        taking._sources[0],
        Message("a/x", b"", retain=retain),
        fact,
        5.0,
    )
    return taking._devices.get((-1, fact.device))


def test_a_description_grows_with_what_is_said_and_settles(taking):
    number, text = {"v": {"type": "number", "unit": "V"}}, {"v": {"type": "string"}}

    for fields, schema in (
        ({"v": 1.0}, number),
        ({"v": 2.0}, number),
        ({"v": "off"}, text),
        ({"v": 3.0}, number),
        ({"w": 1}, {}),
    ):
        device = settle(taking, Taken("x", "{dev}", fields, schema))

    assert device.member.abouts == [
        {},
        {"x": {"fields": {"v": {"type": "number", "unit": "V"}}}},
        {"x": {"fields": {"v": {"unit": "V"}}}},
        {"x": {"fields": {"v": {"unit": "V"}, "w": {}}}},
    ]


def test_who_speaks_lives_unless_it_says_otherwise_itself(taking):
    reading = Taken("x", "{dev}", {"v": 1})

    assert settle(taking, reading).member.state is State.READY
    assert settle(taking, Alive("x", State.LOST, "gone")).member.detail == "gone"
    assert settle(taking, reading).member.state is State.READY
    for state in (State.SLEEPING, State.ALERT, State.INIT):
        settle(taking, Alive("x", state))
        assert settle(taking, reading).member.state is state


def test_readings_are_numbered_stamped_and_signed_by_their_device(taking):
    for time in (None, 3.0):
        device = settle(taking, Taken("x", "{dev}/t", {"v": 1}, {}, time))

    assert [topic for topic, *_ in device.member.said] == ["x/t", "x/t"]
    envelopes = [codecs.envelope_of(payload) for _, payload, *_ in device.member.said]
    assert [(each.by, each.n, each.t) for each in envelopes] == [("x", 0, 5.0), ("x", 1, 3.0)]


def test_what_the_broker_kept_and_who_is_not_wanted_is_counted_only(taking):
    assert settle(taking, Taken("x", "{dev}", {"v": 1}), retain=True) is None
    assert settle(taking, Taken("not_me", "{dev}", {"v": 1})) is None

    assert (taking.counts["replays"], taking.counts["unwanted"]) == (1, 1)


def test_a_device_never_takes_the_name_of_somebody_else_who_lives(taking, caplog):
    taking._client.statuses |= {"mcu": Status(State.READY), "old": Status(State.LOST), "known": Status(State.READY)}
    taking._client.abouts |= {"known": About("known", kwargs={"by": "ingest"})}

    names = [settle(taking, Taken(name, "{dev}", {"v": 1})).member.name for name in ("mcu", "old", "known", "session")]

    assert names[1:3] == ["old", "known"]
    assert names[0].startswith("mcu-") and names[3].startswith("session-")
    assert "the name mcu is taken; the device 'mcu' is called" in caplog.text


def test_there_is_an_end_to_devices(taking, monkeypatch, caplog):
    monkeypatch.setattr(ingest, "_MOST", 2)

    for name in "xyz":
        settle(taking, Taken(name, "{dev}", {"v": 1}))

    assert [given for _, given in taking._devices] == ["x", "y"]
    assert "2 devices are taken in already; the device 'z' is left out" in caplog.text


def test_one_device_that_is_wrong_for_years_does_not_hide_another(taking, caplog):
    for number in range(1000):
        taking._trouble("a/x", f"field value: '{number} °C' is no number")
    taking._trouble("a/y", "no JSON")

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == ingest._LINES + 1
    assert told[-2].endswith("further ones are only counted, as `rejected` and `refused` of its status")
    assert told[-1] == "ingest: message on 'a/y': no JSON"
    assert taking.counts["rejected"] == 1001


def test_a_topic_that_is_none_is_told(taking, caplog):
    settle(taking, Taken("x", "ether/x", {"v": 1}))

    assert "'ether/' is reserved" in caplog.text
    assert taking.counts["rejected"] == 1
