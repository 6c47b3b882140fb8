"""Connections: what they survive, what they renew, what they never lose."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ether import brokers, codecs
from ether.errors import BrokerError
from ether.member import Member
from ether.model import About, Envelope, Message, State
from ether.mqtt import HELD, BrokerLimits, Connection, Receipt
from ether.testing.broker_contract import Packet, wire

PARTS = str(Path(__file__).parents[1] / "parts")


@pytest.fixture
def connect(broker):
    """Open connections to the broker; closed after the test."""
    opened: list[Connection] = []

    def connect(name: str, **options: Any) -> Connection:
        connection = Connection(broker.url, name, **options)
        connection.got = []
        connection.on_message = lambda message, receipt: connection.got.append(message)
        connection.open()
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close(0.5)


@pytest.fixture
def member(broker):
    opened: list[Member] = []

    def make(name: str, **options: Any) -> Member:
        opened.append(Member(broker.url, name, **options))
        opened[-1].open()
        return opened[-1]

    yield make
    for each in opened:
        each.close(0.5)


@pytest.fixture
def many_files():
    """More files open than `select` knows numbers for."""
    resource = pytest.importorskip("resource")
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= most < 2048:
        pytest.skip(f"{most} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, 2048), most))
    with contextlib.ExitStack() as opened:
        yield [opened.enter_context(open(os.devnull, "rb")) for _ in range(1100)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, most))


def test_a_process_may_have_many_files_open(many_files, connect, until):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["row"])

    speaker.publish("row", b"x")

    until(lambda: listener.got, 10.0, "what was published")


def test_two_thousand_publishes_in_a_row_all_arrive_in_order(connect, until):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["row"])

    for number in range(2000):
        speaker.publish("row", b"%d" % number)
    flushed = speaker.flush(10)

    until(lambda: len(listener.got) >= 2000, 10.0)
    assert (flushed, [int(message.payload) for message in listener.got]) == (True, list(range(2000)))


def test_a_connection_that_gathers_does_not_wait_once_the_broker_sends_no_more(connect, until):
    listener, speaker = connect("listener", manual_ack=True), connect("speaker")
    listener.subscribe(["row"])
    listener.limits = BrokerLimits(receive_maximum=1)

    listener.gather_s = 60.0
    for number in range(5):
        speaker.publish("row", b"%d" % number)
        until(lambda number=number: len(listener.got) > number, 10.0)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_qos_arrives_exactly_once_on_a_good_connection(connect, until, qos):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["q"], qos=2)

    for number in range(50):
        speaker.publish("q", b"%d" % number, qos=qos)
    speaker.publish("q", b"end", qos=qos)

    until(lambda: listener.got and listener.got[-1].payload == b"end")
    assert [message.payload for message in listener.got[:-1]] == [b"%d" % number for number in range(50)]


def test_subscriptions_are_renewed_and_nothing_of_qos_1_is_lost_over_a_broker_restart(connect, broker, until):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["row"])
    speaker.publish("row", b"before")
    until(lambda: len(listener.got) == 1)
    ups: list[bool] = []
    listener.on_up = ups.append

    broker.kill()
    until(lambda: not speaker.connected and not listener.connected)
    broker.start()
    until(lambda: ups and listener.connected, 15.0)  # a subscriber without a persistent session must be there first
    for number in range(100):
        speaker.publish("row", b"%d" % number)

    until(lambda: len(listener.got) >= 101, 15.0)
    assert [message.payload for message in listener.got] == [b"before", *(b"%d" % number for number in range(100))]


def test_of_several_addresses_the_first_that_answers_is_used_and_when_it_is_lost_the_next(broker, until):
    with brokers.Embedded() as other:
        url = f"mqtt://127.0.0.1:1,127.0.0.1:{broker.port},127.0.0.1:{other.port}"  # nobody listens at port 1
        listener, speaker = Connection(url, "listener"), Connection(url, "speaker")
        got: list[bytes] = []
        listener.on_message = lambda message, receipt: got.append(message.payload)
        for each in (listener, speaker):
            each.open()
        listener.subscribe(["row"])
        speaker.publish("row", b"before")
        until(lambda: got == [b"before"])
        assert speaker.flush(5.0)  # else it sends it again, to the next broker
        ups: list[bool] = []
        listener.on_up = ups.append

        broker.kill()
        until(lambda: ups and listener.connected, 15.0)
        speaker.publish("row", b"after", retain=True)  # the listener may be about to subscribe

        until(lambda: got == [b"before", b"after"], 15.0)
        for each in (listener, speaker):
            assert each.close()


def test_no_broker_at_any_of_several_addresses_is_one_line():
    with pytest.raises(BrokerError, match="no broker at mqtt://127.0.0.1:1,127.0.0.1:2 within 0.3 s: .*refused"):
        Connection("mqtt://127.0.0.1:1,127.0.0.1:2", "nobody").open(0.3)


def test_what_is_published_while_the_broker_is_away_arrives_when_it_is_back(connect, broker, until):
    speaker = connect("speaker")
    broker.kill()
    until(lambda: not speaker.connected)
    kept = [speaker.publish("state", b"%d" % number, retain=True) for number in range(20)]
    dropped = speaker.publish("state", b"lost", qos=0)

    broker.start()

    assert speaker.flush(15.0)
    assert (kept, dropped, broker.retained()) == ([True] * 20, False, {"state": b"19"})


def test_status_description_and_will_are_renewed_over_a_broker_restart(member, broker, until):
    one = member("one", boot="b1", every=60.0)
    one.set_about(About("one", class_name="lab.One"))
    one.set_status(State.READY)
    until(lambda: "ether/about/one" in broker.retained())

    broker.kill()
    broker.start()
    until(lambda: b"ready" in broker.retained().get("ether/status/one", b""), 15.0)
    about = json.loads(broker.retained()["ether/about/one"])
    until(lambda: one.connection.connected)
    one.connection._client._sock.shutdown(2)  # vanish: the will shows that it was renewed, the reconnect ends it
    until(lambda: not one.connection.connected)
    until(lambda: one.connection.connected, 10.0)

    assert (about["class"], about["boot"]) == ("lab.One", "b1")
    until(lambda: json.loads(broker.retained()["ether/status/one"])["state"] == "ready")


def test_a_will_tells_when_a_member_vanishes(broker, raw, until):
    member = Member(broker.url, "doomed", boot="b1")
    member.open()
    member.set_status(State.READY)

    member.connection._closing.set()
    member._closed.set()
    member.connection._client._sock.shutdown(2)

    until(lambda: b"lost" in broker.retained()["ether/status/doomed"])
    assert json.loads(broker.retained()["ether/status/doomed"]) == {
        "state": "lost", "boot": "b1", "detail": "connection lost",
    }  # fmt: skip
    member.connection.close(0)


def test_an_orderly_end_sends_no_will(broker):
    member = Member(broker.url, "orderly", boot="b1")
    member.open()
    member.set_status(State.DISCONNECTED)

    member.close()

    assert json.loads(broker.retained()["ether/status/orderly"])["state"] == "disconnected"


def test_a_late_will_of_an_old_boot_never_wins(member, broker, raw, until):
    one = member("one", boot="new", every=60.0)
    one.set_status(State.READY)
    seen: list[Any] = []
    client = raw(broker.url)

    client.publish("ether/status/one", b'{"state":"lost","boot":"old","detail":"connection lost"}', retain=True)

    until(lambda: json.loads(broker.retained()["ether/status/one"])["boot"] == "new", 3.0)
    assert (json.loads(broker.retained()["ether/status/one"])["state"], seen) == ("ready", [])


def test_a_watcher_never_believes_a_will_of_an_old_boot(ether, broker, raw, until):
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    states: list[str] = []
    client = ether._need()
    before, client.on_change = client.on_change, lambda name, status: states.append(str(status.state))

    raw(broker.url).publish("ether/status/echo", b'{"state":"lost","boot":"old"}', retain=True)
    client.echo()

    client.on_change = before
    assert ("lost" not in states, ether.instances()["echo"].state) == (True, "ready")


def test_a_will_that_follows_the_goodbye_of_the_same_start_says_nothing(ether, raw, until):
    ether.tap({"broker": "embedded", "record": "off"})
    client = raw(ether.info()["broker"]["url"])
    client.publish("ether/status/small", b'{"state":"ready","boot":"b"}')
    client.publish("ether/status/small", b'{"state":"disconnected","boot":"b","counts":{"published":7}}')

    client.publish("ether/status/small", b'{"state":"lost","boot":"b","detail":"connection lost"}')
    client.publish("ether/status/other", b'{"state":"ready","boot":"c"}')

    until(lambda: "other" in ether.instances())
    small = ether.instances()["small"]
    assert (small.state, small.counts["published"]) == ("disconnected", 7)


def test_a_silent_instance_reads_as_lost(ether, raw, until):
    ether.tap({"broker": "embedded", "record": "off"})

    raw(ether.info()["broker"]["url"]).publish(
        "ether/status/small", b'{"state":"ready","boot":"b","every":0.05}', retain=True
    )

    until(lambda: "small" in ether.instances())
    until(lambda: ether.instances()["small"].state == "lost", 2.0)
    assert ether.instances()["small"].detail == "silent for more than 0.15 s"


def test_a_member_elsewhere_that_falls_silent_is_told_to_be_lost_so_that_nothing_retained_lies(
    ether, broker, raw, until
):
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    device = raw(broker.url)

    device.publish("ether/status/small", b'{"state":"ready","boot":"b","every":0.05}', retain=True)

    until(lambda: b"lost" in broker.retained()["ether/status/small"])
    told = json.loads(broker.retained()["ether/status/small"])
    assert (told["boot"], told["detail"]) == ("b", "silent for more than 0.15 s")
    device.publish("ether/status/small", b'{"state":"ready","boot":"b","every":60}', retain=True)
    until(lambda: ether.instances()["small"].state == "ready")


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_member_that_comes_back_in_time_was_reconnecting_and_never_lost(ether, member, broker, until):
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    board = member("board")
    board.set_status(State.READY)
    until(lambda: "board" in ether.instances() and ether.instances()["board"].state == "ready")
    states: list[str] = []
    client = ether._need()
    client.on_change = lambda name, status: states.append(str(client.instances()["board"].state))

    board.connection._client._sock.shutdown(2)

    until(lambda: "reconnecting" in states and states[-1] == "ready", 10.0)
    assert "lost" not in states
    assert ether.members()["board"]["losses"] == 1
    assert ether.instances()["board"].counts["reconnects"] == 1


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_a_member_that_does_not_come_back_in_time_is_lost(ether, broker, until):
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    board = Member(broker.url, "board", every=2.0)
    board.open()
    board.set_status(State.READY)
    until(lambda: "board" in ether.instances() and ether.instances()["board"].state == "ready")

    board.connection._closing.set()
    board._closed.set()
    board.connection._client._sock.shutdown(2)

    until(lambda: ether.instances()["board"].state == "reconnecting")
    listed = subprocess.run([sys.executable, "-m", "ether.cli", "ps", "--json"], capture_output=True, check=True)
    states = {row["name"]: row["state"] for row in map(json.loads, listed.stdout.splitlines())}
    assert states == {"board": "reconnecting", "echo": "ready"}, "told by who has been listening"
    until(lambda: ether.instances()["board"].state == "lost", 10.0)
    board.connection.close(0)


def test_a_small_device_may_say_a_plain_word(ether, raw, until):
    ether.tap({"broker": "embedded", "record": "off"})

    raw(ether.info()["broker"]["url"]).publish("ether/status/small", b"ready", retain=True)

    until(lambda: "small" in ether.instances() and ether.instances()["small"].state == "ready")


def test_the_heartbeat_goes_on_while_a_start_hook_blocks(ether, raw, until):
    ether.tap(
        {
            "broker": "embedded", "record": "off", "session": {"stop_timeout": "5s"},
            "instances": {"camera": {"class_path": "lab_parts.Acquisition", "args": [4.5]}},
        }
    )  # fmt: skip
    client = raw(ether.info()["broker"]["url"])
    client.subscribe("ether/status/camera")
    client.next()  # the retained one

    ether.start()
    started = time.monotonic()

    beats = [json.loads(client.next(3.0).payload)["state"] for _ in range(2)]
    assert (beats, time.monotonic() - started < 4.6) == (["ready", "ready"], True)


def test_a_whole_session_survives_a_restart_of_its_broker(ether, broker, until):
    ether.tap({"broker": broker.url, "record": "off", "instances": {"echo": {"class_path": "lab_parts.Echo"}}})
    before = ether.get("echo", "where")["pid"]

    broker.kill()
    broker.start()

    until(lambda: {"ether/status/echo", "ether/about/echo", "ether/session"} <= broker.retained().keys(), 20.0)
    until(lambda: ether._need().connection.connected, 10.0)
    assert ether.get("echo", "where", timeout=20)["got"] == []  # asked again until it is back, too
    ether.pub({"x": 1}, "echo/in")
    until(lambda: ether.get("echo", "where")["got"] == [1])
    assert ether.get("echo", "where")["pid"] == before
    assert ether.shutdown().problems == ()


def test_exceptions_in_callbacks_are_logged_and_survived(connect, until, caplog):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["x"])

    def fail(message: Message, receipt: Any) -> None:
        listener.got.append(message.payload)
        raise RuntimeError("the callback failed")

    listener.on_message = fail
    speaker.publish("x", b"1")
    speaker.publish("x", b"2")

    until(lambda: listener.got == [b"1", b"2"])
    records = [record for record in caplog.records if record.exc_info]
    assert [(r.levelno, str(r.exc_info[1])) for r in records][:1] == [(logging.ERROR, "the callback failed")]


def test_a_subscription_works_when_subscribe_returns(connect, until):
    listener, speaker = connect("listener"), connect("speaker")

    for number in range(20):
        listener.subscribe([f"t/{number}"])
        speaker.publish(f"t/{number}", b"%d" % number)

    until(lambda: len(listener.got) == 20)


def test_closing_does_not_wait_for_a_broker_that_is_gone(connect, broker, until):
    speaker = connect("speaker")
    broker.kill()
    until(lambda: not speaker.connected)
    speaker.publish("x", b"")
    started = time.monotonic()

    flushed = speaker.close(5.0)

    assert (flushed, time.monotonic() - started < 2.0) == (False, True)


def test_an_unsubscribed_topic_is_silent(connect, until):
    listener, speaker = connect("listener"), connect("speaker")
    listener.subscribe(["a", "b"])

    listener.unsubscribe(["a"])
    speaker.publish("a", b"1")
    speaker.publish("b", b"2")

    until(lambda: listener.got)
    assert [message.topic for message in listener.got] == ["b"]


def test_a_namespace_is_put_before_and_taken_off(connect, until, broker):
    inside, outside = connect("inside", namespace="lab/one"), connect("outside")
    inside.subscribe(["a/#"])
    outside.publish("lab/one/a/b", b"in")
    outside.publish("a/b", b"out")
    inside.publish("r", b"1", retain=True)

    until(lambda: inside.got)
    assert ([message.topic for message in inside.got], broker.retained()) == (["a/b"], {"lab/one/r": b"1"})


def test_acknowledged_by_hand_is_delivered_again_until_it_is(broker, connect, until):
    first = Connection(broker.url, "keeper", persistent=True, manual_ack=True)
    got: list[bytes] = []
    first.on_message = lambda message, receipt: got.append(message.payload)
    first.open()
    first.subscribe(["x"])
    connect("speaker").publish("x", b"1")
    until(lambda: got)
    first.close()

    second = Connection(broker.url, "keeper", persistent=True, manual_ack=True)
    receipts: list[Any] = []
    second.on_message = lambda message, receipt: receipts.append(receipt)
    second.open()
    until(lambda: receipts)
    second.acknowledge(receipts)
    second.close()
    third = Connection(broker.url, "keeper", persistent=True)
    third.on_message = lambda message, receipt: got.append(message.payload)
    third.open()
    third.subscribe(["end"])
    third.publish("end", b"end")
    until(lambda: b"end" in got)
    third.close()

    assert got == [b"1", b"end"]


def test_publishing_on_a_closed_connection_is_an_error(connect):
    connection = connect("closed")
    connection.close()

    with pytest.raises(BrokerError, match="is closed; 'a' was not sent"):
        connection.publish("a", b"")


def test_tcp_no_delay_is_set(connect):
    import socket

    sock = connect("fast")._client._sock

    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


class Scripted:
    """A broker that answers what it is told to, for what no broker of ours does."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self.received: list[Packet] = []
        self.answers: list[bytes] = []
        """Codes of the next SUBACKs; after them everything is granted."""
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def send(self, *packets: bytes) -> None:
        self._socket.sendall(b"".join(packets))

    def kinds(self, kind: int) -> list[int]:
        return [packet.packet_id for packet in self.received if packet.kind == kind]

    def _serve(self) -> None:
        self._socket = self._server.accept()[0]
        with self._socket, self._socket.makefile("rb") as stream:
            while first := stream.read(1):
                size = stream.read(1)[0]  # all that comes here is short
                packet = Packet(first[0], stream.read(size))
                if packet.kind == 1:
                    self.send(b"\x20\x02\0\0")
                elif packet.kind == 8:
                    codes = self.answers.pop(0) if self.answers else b"\x01" * _filters(packet.body)
                    self.send(wire.packet(0x90, packet.body[:2] + codes))
                self.received.append(packet)

    def close(self) -> None:
        self._server.close()
        self._thread.join(5)


def _filters(body: bytes) -> int:
    at, count = 2, 0
    while at < len(body):
        at += 3 + int.from_bytes(body[at : at + 2], "big")
        count += 1
    return count


def test_what_a_publisher_sends_again_is_given_to_a_handler_once(member, connect, until):
    """As it must after a broker died that had passed a number on and not acknowledged it."""
    listener, speaker, got = member("listener"), connect("speaker"), []

    def take(message: Message, _receipt: Receipt | None) -> None:
        if message.topic.startswith("lab/"):  # its own status comes by, too
            got.append(codecs.decode(message.payload)[0].get("v"))

    listener.on_message = take
    listener.connection.subscribe(["lab/#"])

    def say(value: str, number: int, boot: str = "b1", topic: str = "lab/x", **options: Any) -> None:
        speaker.publish(topic, codecs.encode({"v": value}, Envelope("oven", boot, number, 1.0)), **options)

    for number in (0, 1, 1, 0, 3, 2, 2, 3):  # 3 overtook 2, as over a cluster
        say(f"n{number}", number)
    say("other topic", 0, topic="lab/y")
    say("started again", 0, "b2")
    say("started again", 0, "b2")
    say("QoS 0", 1, "b2", qos=0)
    say("QoS 0", 1, "b2", qos=0)  # never sent again, so these are two
    for _ in range(2):
        speaker.publish("lab/x", b'{"v": "no number"}')
    speaker.publish("lab/x", b'{"v": "end"}')

    until(lambda: "end" in got)
    assert got == [
        "n0", "n1", "n3", "n2", "other topic", "started again", "QoS 0", "QoS 0", "no number", "no number", "end",
    ]  # fmt: skip
    assert listener.counts["repeated"] == 5


@pytest.fixture
def scripted(until):
    """A connection to such a broker; returns both."""
    server = Scripted()
    connection = Connection(server.url, "listener")
    connection.got = []
    connection.on_message = lambda message, receipt: connection.got.append(message)
    yield server, connection
    connection.close(0.5)
    server.close()


def test_what_comes_twice_over_one_connection_before_it_is_acknowledged_is_delivered_once(scripted, until):
    """NATS sends again what is not acknowledged in time, though the standard has it wait for a reconnect."""
    server, connection = scripted
    receipts: list[Receipt] = []

    def hold(message: Message, receipt: Receipt) -> object:
        connection.got.append(message.payload)
        receipts.append(receipt)
        return HELD

    connection.on_message = hold
    connection.open()
    server.send(wire.publish("x", b"1", 1, 7), wire.publish("x", b"1", 1, 7, dup=True), wire.publish("x", b"2", 1, 8))
    until(lambda: len(connection.got) == 2)
    assert server.kinds(4) == []

    connection.acknowledge(receipts)
    until(lambda: server.kinds(4) == [7, 8])
    server.send(wire.publish("x", b"3", 1, 7, dup=True))

    until(lambda: len(connection.got) == 3)
    assert connection.got == [b"1", b"2", b"3"]


def test_what_is_remembered_of_numbers_is_bounded_where_most_go_elsewhere(member):
    """As in a shared subscription, of which each member gets some numbers."""
    listener, got = member("listener"), Counter()
    listener.on_message = lambda message, receipt: got.update([codecs.decode(message.payload)[1].n])

    def hear(number: int) -> None:
        payload = codecs.encode({}, Envelope("oven", "b1", number, 1.0))
        listener.connection.on_message(Message("lab/x", payload, 1, False, False), None)

    for number in range(0, 4000, 2):
        hear(number)
    for number in (3998, 2500, 0):
        hear(number)

    assert (got[3998], got[2500], got[0]) == (1, 1, 2)  # the first is forgotten, and better given twice than not at all


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 150, 65_536])
def test_messages_arrive_whole_wherever_the_stream_is_cut(scripted, until, monkeypatch, piece):
    monkeypatch.setattr("ether.mqtt._READ_AHEAD", piece)
    server, connection = scripted
    connection.open()

    server.send(
        wire.publish("x", b"1", 1, 7),
        wire.publish("x/y", b""),
        b"\xd0\0",  # PINGRESP
        wire.publish("x", b"long" * 50, 1, 8, retain=True),
        wire.publish("x", b"longer" * 50_000),
        wire.publish("x", b"last", 1, 9),
    )

    until(lambda: server.kinds(4) == [7, 8, 9])
    assert connection.got == [
        Message("x", b"1", 1),
        Message("x/y", b""),
        Message("x", b"long" * 50, 1, retain=True),
        Message("x", b"longer" * 50_000),
        Message("x", b"last", 1),
    ]


def test_a_subscription_that_is_refused_is_asked_for_again(scripted, until, monkeypatch, caplog):
    """A cluster refuses while it elects."""
    monkeypatch.setattr("ether.mqtt._ASK_AGAIN_S", (0.01, 0.02))
    caplog.set_level(logging.INFO)
    server, connection = scripted
    server.answers = [b"\x01\x80\x80", b"\x80\x80", b"\x80\x01"]

    connection._ask_again_s = 0.01
    connection.open()
    connection.subscribe(["a", "b", "c"])

    until(lambda: len([packet for packet in server.received if packet.kind == 8]) == 4)
    assert [packet.body[2:] for packet in server.received if packet.kind == 8] == [
        b"".join(wire.string(name) + b"\x01" for name in names) for names in ("abc", "bc", "bc", "b")
    ]
    until(lambda: "granted subscriptions that it refused before: ['b']" in caplog.text)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == [
        "listener: the broker refused subscriptions, and is asked again: ['b', 'c']"
    ]
