"""Users, rights, TLS and WebSockets on the brokers that ether starts."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ether_broker import users
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion

from ether import brokers
from ether.errors import BrokerError
from ether.mqtt import Connection, Tls
from ether.testing.broker_contract import TIMEOUT_S, Client, Closed, wire

PASSWORDS = {name: f"password of {name}" for name in ("oven", "pump", "recorder", "board", "page", "boss")}
ORIGIN = "http://lab.example:8000"
REFUSED = 5


@pytest.fixture(scope="session")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users.yaml"
    users.write(
        path,
        {
            user.name: user
            for user in (
                users.make_user("oven", "component", PASSWORDS["oven"], ("lab/oven/#",), ("lab/+",)),
                users.make_user("pump", "component", PASSWORDS["pump"]),
                users.make_user("recorder", "recorder", PASSWORDS["recorder"]),
                users.make_user("board", "device", PASSWORDS["board"]),
                users.make_user("page", "dashboard", PASSWORDS["page"]),
                users.make_user("boss", "admin", PASSWORDS["boss"]),
            )
        },
    )
    return path


def connect_packet(user: str | None, password: str | None, client_id: str = "", will=None, clean=True) -> bytes:
    packet = wire.connect(client_id, will=will, clean=clean)
    body = packet[packet.index(b"\0\4MQTT") :]
    flags = body[7] | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    body = body[:7] + bytes((flags,)) + body[8:]
    return wire.packet(0x10, body + b"".join(wire.string(each) for each in (user, password) if each is not None))


class Guarded:
    """One running broker with the users above, and clients of it."""

    def __init__(self, broker: brokers.Embedded | brokers.Mosquitto) -> None:
        self.broker = broker
        self.clients: list[Client] = []

    def raw(self) -> Client:
        client = Client("127.0.0.1", self.broker.local_port or self.broker.port)
        self.clients.append(client)
        return client

    def attempt(self, user: str | None, password: str | None, client_id: str = "", **options) -> tuple[Client, int]:
        client = self.raw()
        client.send(connect_packet(user, password, client_id, **options))
        return client, client.expect(2).body[1]

    def connect(self, user: str, client_id: str = "", **options) -> Client:
        client, code = self.attempt(user, PASSWORDS[user], client_id, **options)
        assert code == 0
        return client

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


class SecurityContract:
    """The same users and rights, whichever broker enforces them."""

    kind: type[brokers.Embedded] | type[brokers.Mosquitto]
    refuses_subscriptions: bool

    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, users_file: Path) -> Iterator[brokers.Embedded | brokers.Mosquitto]:
        if cls.kind is brokers.Mosquitto and brokers.find_mosquitto() is None:
            pytest.skip("mosquitto is not installed; try `apt install mosquitto`")
        with cls.kind(security=brokers.Security(users=users_file)) as broker:
            yield broker  # type: ignore[misc]

    @pytest.fixture
    def lab(self, broker) -> Iterator[Guarded]:
        lab = Guarded(broker)
        yield lab
        boss = lab.connect("boss")
        for topic in ("ether/status/board", "lab/oven/kept", "board/x", "lab/forbidden"):
            boss.publish(topic, b"", retain=True)
        lab.close()

    @pytest.mark.parametrize("name", PASSWORDS)
    def test_the_right_password_lets_in(self, lab: Guarded, name: str) -> None:
        assert lab.attempt(name, PASSWORDS[name])[1] == 0

    @pytest.mark.parametrize(
        ("name", "password"),
        [("oven", "wrong password"), ("oven", ""), ("oven", None), ("oven", PASSWORDS["pump"]), ("nobody", "a password"),
         ("ether-session", "a password"), ("ether-session", ""), (None, None)],
    )  # fmt: skip
    def test_anything_else_does_not(self, lab: Guarded, name: str | None, password: str | None) -> None:
        client, code = lab.attempt(name, password)

        assert (code, client.wait_closed()) == (REFUSED, [])

    def test_a_refused_client_does_not_disturb_the_one_it_calls_itself(self, lab: Guarded) -> None:
        oven = lab.connect("oven", "oven-1")
        oven.subscribe(("lab/x", 1))

        assert lab.attempt("oven", "wrong password", "oven-1")[1] == REFUSED

        lab.connect("boss").publish("lab/x", b"still here")
        assert oven.messages(1)[0].payload == b"still here"

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_a_denied_publish_is_acknowledged_dropped_and_ends_nothing(self, lab: Guarded, qos: int) -> None:
        boss, board = lab.connect("boss"), lab.connect("board")
        boss.subscribe(("#", 2))

        board.publish("lab/forbidden", b"no", qos, retain=True)
        board.publish("board/x", b"yes", qos)

        assert [(each.topic, each.payload) for each in boss.messages(1)] == [("board/x", b"yes")]
        late = lab.connect("boss")
        late.subscribe(("lab/forbidden", 0))
        assert late.drain() == [], "nor is it retained"

    @pytest.mark.parametrize(
        ("user", "topic", "allowed"),
        [
            ("oven", "lab/oven/t", True), ("oven", "lab/pump/t", False), ("oven", "oven/t", False),
            ("oven", "ether/status/oven", True), ("oven", "ether/status/pump", False),
            ("oven", "ether/reply/client", True), ("oven", "ether/call/pump/on", True),
            ("oven", "ether/resend/lab/oven/t", True), ("oven", "ether/run", False),
            ("pump", "pump/t", True), ("pump", "lab/oven/t", False),
            ("recorder", "ether/stored/oven", True), ("recorder", "ether/status/recorder", True),
            ("recorder", "lab/oven/t", False), ("recorder", "ether/status/oven", False),
            ("board", "ether/status/board", True), ("board", "ether/pong/board", True), ("board", "board/t", True),
            ("board", "ether/status/oven", False), ("board", "ether/call/oven/on", False),
            ("page", "lab/oven/t", False), ("page", "ether/control/start", False), ("page", "ether/status/page", False),
            ("boss", "ether/control/start", True), ("boss", "anything", True),
        ],
    )  # fmt: skip
    def test_who_may_publish_what(self, lab: Guarded, user: str, topic: str, allowed: bool) -> None:
        boss, client = lab.connect("boss"), lab.connect(user)
        boss.subscribe(("#", 1))

        client.publish(topic, b"content", 1)
        lab.connect("boss").publish("end", b"")

        expected = [topic, "end"] if allowed else ["end"]
        assert [each.topic for each in boss.messages(len(expected))] == expected

    @pytest.mark.parametrize(
        ("user", "topic_filter", "topic", "allowed"),
        [
            ("oven", "lab/x", "lab/x", True), ("oven", "lab/+", "lab/x", True), ("oven", "lab/x/y", "lab/x/y", False),
            ("oven", "ether/command/oven/#", "ether/command/oven/stop", True),
            ("oven", "ether/command/pump/#", "ether/command/pump/stop", False),
            ("oven", "ether/status/+", "ether/status/board", True),
            ("oven", "ether/reply/me", "ether/reply/me", True), ("oven", "ether/reply/you", "ether/reply/you", False),
            ("pump", "lab/x/y", "lab/x/y", True), ("pump", "$share/g/lab/x", "lab/x", True),
            ("recorder", "#", "ether/resend/lab/x", True), ("page", "#", "lab/x", True),
            ("board", "ether/command/board/+", "ether/command/board/stop", True),
            ("board", "ether/command/+/stop", "ether/command/oven/stop", False), ("board", "lab/x", "lab/x", False),
            ("board", "$share/g/lab/x", "lab/x", False), ("board", "#", "lab/x", False),
        ],
    )  # fmt: skip
    def test_who_may_read_what(self, lab: Guarded, user: str, topic_filter: str, topic: str, allowed: bool) -> None:
        client, boss = lab.connect(user, "me"), lab.connect("boss")

        (code,) = client.subscribe((topic_filter, 0))
        boss.publish(topic, b"content")

        assert [each.payload for each in client.drain()] == ([b"content"] if allowed else [])
        if allowed or self.refuses_subscriptions:
            assert code == (0 if allowed else 0x80)

    def test_a_wider_filter_does_not_slip_through(self, lab: Guarded) -> None:
        """The grant is `lab/+`; brokers may refuse `lab/#` or deliver less, but never what the grant does not cover."""
        oven, boss = lab.connect("oven"), lab.connect("boss")

        (code,) = oven.subscribe(("lab/#", 0))
        boss.publish("lab/x/secret", b"no")
        boss.publish("lab/oven/kept", b"no", retain=True)

        assert [each.payload for each in oven.drain() if each.payload == b"no"] == []
        assert code == (0x80 if self.refuses_subscriptions else 0)

    def test_retained_messages_go_only_to_who_may_read_them(self, lab: Guarded) -> None:
        lab.connect("boss").publish("lab/oven/kept", b"kept", retain=True)
        board, page = lab.connect("board"), lab.connect("page")

        board.subscribe(("lab/oven/kept", 0))
        page.subscribe(("lab/oven/kept", 0))

        assert [each.payload for each in board.drain()] == []
        assert [each.payload for each in page.drain()] == [b"kept"]

    def test_a_will_obeys_the_rights_of_its_client(self, lab: Guarded) -> None:
        boss = lab.connect("boss")
        boss.subscribe(("lab/forbidden", 1), ("ether/status/board", 1))

        for topic in ("lab/forbidden", "ether/status/board"):
            lab.connect("board", "board", will=(topic, b"lost", 1, True)).abort()

        assert [(each.topic, each.payload) for each in boss.messages(1)] == [("ether/status/board", b"lost")]

    def test_sys_is_for_those_who_watch(self, lab: Guarded) -> None:
        (code,) = lab.connect("page").subscribe(("$SYS/#", 0))
        board = lab.connect("board")
        board.subscribe(("$SYS/#", 0))

        assert code == 0 and board.drain() == []


class TestEmbedded(SecurityContract):
    kind = brokers.Embedded
    refuses_subscriptions = True


class TestMosquitto(SecurityContract):
    kind = brokers.Mosquitto
    refuses_subscriptions = False  # its ACL file is asked when a message is to be delivered
