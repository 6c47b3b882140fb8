"""The broker contract: what ether expects of an MQTT 3.1.1 broker, as a pytest class to subclass.

A broker of your own is two lines::

    class TestMine(ProcessContract):
        broker = MyBrokerProcess          # a subclass of BrokerProcess

What it is known to do otherwise stands in its `differences`, with what it does instead; such a test has to fail.

`BrokerContract` is what any broker must do, in memory or not; `ProcessContract` adds what only a process on a socket
can show: that it survives its own end, clients that do not read, a client library.

Every test speaks MQTT byte by byte (`Client`), because a client library would hide what is looked at here. Tests wait
for something to arrive; that nothing arrives is seen by a ping: what the broker had for us comes before its reply.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, Protocol

import pytest

__all__ = [
    "BrokerContract",
    "BrokerProcess",
    "BrokerUnderTest",
    "Client",
    "Closed",
    "EmbeddedProcess",
    "InMemory",
    "MosquittoProcess",
    "Packet",
    "ProcessContract",
    "wire",
]

TIMEOUT_S = 10.0
"""How long a test waits for something that should come at once."""

PINGREQ, DISCONNECT = b"\xc0\x00", b"\xe0\x00"


# -- bytes --


class wire:  # a namespace, read as wire.publish(...)
    """Packets as bytes, right or deliberately wrong."""

    @staticmethod
    def string(text: str | bytes) -> bytes:
        """`text` behind its two bytes of length."""
        data = text.encode() if isinstance(text, str) else text
        return len(data).to_bytes(2, "big") + data

    @staticmethod
    def packet(first: int, body: bytes) -> bytes:
        """A fixed header and `body`."""
        size, left = bytearray(), len(body)
        while True:
            left, low = divmod(left, 128)
            size.append(low | (128 if left else 0))
            if not left:
                return bytes((first,)) + bytes(size) + body

    @staticmethod
    def connect(
        client_id: str = "",
        *,
        clean: bool = True,
        keepalive_s: int = 0,
        will: tuple[str, bytes, int, bool] | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> bytes:
        """CONNECT; `will` = (topic, payload, qos, retain)."""
        flags, payload = 2 if clean else 0, wire.string(client_id)
        if will is not None:
            topic, message, qos, retain = will
            flags |= 4 | qos << 3 | (32 if retain else 0)
            payload += wire.string(topic) + wire.string(message)
        for flag, credential in ((0x80, user), (0x40, password)):
            if credential is not None:
                flags |= flag
                payload += wire.string(credential)
        return wire.packet(0x10, wire.string("MQTT") + bytes((4, flags)) + keepalive_s.to_bytes(2, "big") + payload)

    @staticmethod
    def publish(
        topic: str | bytes, payload: bytes = b"x", qos: int = 0, packet_id: int = 1, *, retain: bool = False,
        dup: bool = False,
    ) -> bytes:  # fmt: skip
        """PUBLISH."""
        identifier = packet_id.to_bytes(2, "big") if qos else b""
        return wire.packet(0x30 | dup << 3 | qos << 1 | retain, wire.string(topic) + identifier + payload)

    @staticmethod
    def subscribe(*requests: tuple[str | bytes, int], packet_id: int = 1) -> bytes:
        """SUBSCRIBE to (filter, qos) pairs."""
        body = b"".join(wire.string(topic_filter) + bytes((qos,)) for topic_filter, qos in requests)
        return wire.packet(0x82, packet_id.to_bytes(2, "big") + body)

    @staticmethod
    def unsubscribe(*filters: str, packet_id: int = 1) -> bytes:
        """UNSUBSCRIBE."""
        return wire.packet(0xA2, packet_id.to_bytes(2, "big") + b"".join(map(wire.string, filters)))

    @staticmethod
    def acknowledge(first: int, packet_id: int) -> bytes:
        """PUBACK 0x40, PUBREC 0x50, PUBREL 0x62, PUBCOMP 0x70."""
        return wire.packet(first, packet_id.to_bytes(2, "big"))


class Packet(NamedTuple):
    """One packet from the broker."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        """The packet type, 3 = PUBLISH."""
        return self.first >> 4

    @property
    def qos(self) -> int:
        """QoS of a PUBLISH."""
        return self.first >> 1 & 3

    @property
    def retain(self) -> bool:
        """RETAIN of a PUBLISH."""
        return bool(self.first & 1)

    @property
    def dup(self) -> bool:
        """DUP of a PUBLISH."""
        return bool(self.first & 8)

    @property
    def topic(self) -> str:
        """Topic of a PUBLISH."""
        return self.body[2 : self._topic_end].decode()

    @property
    def packet_id(self) -> int:
        """Identifier of a PUBLISH at QoS 1 or 2, or of an acknowledgement."""
        at = self._topic_end if self.kind == 3 else 0
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def payload(self) -> bytes:
        """Payload of a PUBLISH."""
        return self.body[self._topic_end + (2 if self.qos else 0) :]

    @property
    def _topic_end(self) -> int:
        return 2 + int.from_bytes(self.body[:2], "big")


class Closed(Exception):
    """The broker closed the connection."""


class Client:
    """An MQTT client that does what it is told and nothing else: no ping, no acknowledgement of its own accord."""

    def __init__(self, host: str = "", port: int = 0, *, connected: Any = None) -> None:
        """Connect, or take what is `connected` already and behaves as a socket."""
        self.socket: socket.socket = connected or socket.create_connection((host, port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._ids = count(1)

    def send(self, *packets: bytes) -> None:
        """Send bytes in one go."""
        self.socket.sendall(b"".join(packets))

    def receive(self) -> Packet:
        """The next packet.

        Raises:
            Closed: there is none and will be none.
            TimeoutError: none came in time.
        """
        buffer = self._buffer
        while True:
            size = shift = 0
            for index in range(1, min(5, len(buffer))):
                size |= (buffer[index] & 127) << shift
                shift += 7
                if buffer[index] < 128:
                    stop = index + 1 + size
                    if len(buffer) >= stop:
                        packet = Packet(buffer[0], bytes(buffer[index + 1 : stop]))
                        del buffer[:stop]
                        return packet
                    break
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError as exc:
                raise Closed from exc
            if not data:
                raise Closed
            buffer += data

    def expect(self, kind: int) -> Packet:
        """The next packet, which must be of type `kind`."""
        packet = self.receive()
        assert packet.kind == kind, packet
        return packet

    def connect(
        self,
        client_id: str = "",
        *,
        clean: bool = True,
        keepalive_s: int = 0,
        will: tuple[str, bytes, int, bool] | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> bool:
        """CONNECT and CONNACK; returns session present."""
        self.send(
            wire.connect(client_id, clean=clean, keepalive_s=keepalive_s, will=will, user=user, password=password)
        )
        present, code = self.expect(2).body
        assert code == 0, f"refused with {code}"
        return bool(present)

    def subscribe(self, *requests: tuple[str, int]) -> list[int]:
        """SUBSCRIBE and SUBACK; returns the granted QoS of each."""
        self.send(wire.subscribe(*requests))
        return list(self.expect(9).body[2:])

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, *, retain: bool = False) -> None:
        """PUBLISH, and the whole handshake of its QoS; the broker has it when this returns (QoS 0: pinged)."""
        packet_id = next(self._ids)
        self.send(wire.publish(topic, payload, qos, packet_id, retain=retain))
        if qos == 0:
            assert self.drain() == []
        elif qos == 1:
            assert self.expect(4).packet_id == packet_id
        else:
            assert self.expect(5).packet_id == packet_id
            self.send(wire.acknowledge(0x62, packet_id))
            assert self.expect(7).packet_id == packet_id

    def publish_many(self, packets: list[bytes]) -> None:
        """Send QoS 1 PUBLISH packets back to back and take all their acknowledgements."""
        self.send(*packets)
        for _ in packets:
            self.expect(4)

    def messages(self, number: int, *, acknowledge: bool = True) -> list[Packet]:
        """The next `number` PUBLISH packets, acknowledged as their QoS asks for."""
        found: list[Packet] = []
        acknowledgements: list[bytes] = []
        while len(found) < number:
            packet = self.receive()
            if packet.kind == 3:
                found.append(packet)
                if packet.qos and acknowledge:
                    acknowledgements.append(wire.acknowledge(0x40 if packet.qos == 1 else 0x50, packet.packet_id))
                    if len(acknowledgements) >= 10:
                        self.send(*acknowledgements)
                        acknowledgements.clear()
            elif packet.kind == 6:
                self.send(wire.acknowledge(0x70, packet.packet_id))
            else:
                raise AssertionError(packet)
            if not self._buffer and acknowledgements:
                self.send(*acknowledgements)
                acknowledgements.clear()
        self.send(*acknowledgements)
        return found

    def drain(self) -> list[Packet]:
        """Everything the broker has for us now."""
        self.send(PINGREQ)
        found = []
        while (packet := self.receive()).kind != 13:
            found.append(packet)
        return found

    def wait_closed(self) -> list[Packet]:
        """What still comes until the broker closes the connection."""
        found = []
        while True:
            try:
                found.append(self.receive())
            except Closed:
                return found

    def disconnect(self) -> None:
        """DISCONNECT, and wait until the broker has taken it."""
        self.send(DISCONNECT)
        self.wait_closed()
        self.socket.close()

    def abort(self) -> None:
        """Vanish without DISCONNECT, as a board does that lost power."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()


# -- brokers --


class BrokerUnderTest:
    """A broker, begun by `start`."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; `folder` is its own, and empty."""
        self.folder = folder

    @classmethod
    def missing(cls) -> str | None:
        """Why this broker cannot run here, or None."""
        return None

    def start(self) -> None:
        """Start it; returns when it accepts connections."""
        raise NotImplementedError

    def close(self) -> None:
        """End it, if it still runs."""

    def client(self) -> Client:
        """A new connection to it."""
        raise NotImplementedError

    def now(self) -> float:
        """Seconds on the clock it lives by."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Let so much time pass."""
        threading.Event().wait(seconds)


class InMemory(BrokerUnderTest):
    """`MemoryBroker`, which lives by a clock that runs while somebody waits."""

    def start(self) -> None:
        """Begin it."""
        from ether.testing.memory_broker import MemoryBroker

        self.broker = MemoryBroker()

    def client(self) -> Client:
        """A new connection to it."""
        return Client(connected=_Waiting(self.broker))

    def now(self) -> float:
        """Seconds on its own clock."""
        return self.broker.clock.monotonic()

    def pause(self, seconds: float) -> None:
        """Let so much of its time pass."""
        self.broker.clock.advance(seconds)


class _Waiting:
    """A client's end of a connection in memory that waits as a socket does."""

    def __init__(self, broker: Any) -> None:
        self._clock = broker.clock
        self._end = broker.dial()

    def recv(self, size: int) -> bytes:
        if not self._clock.drive(self._end.readable, TIMEOUT_S):
            raise TimeoutError
        data: bytes = self._end.recv(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)


class BrokerProcess(BrokerUnderTest):
    """A broker in a process, listening on loopback, keeping its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.host = "127.0.0.1"
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port it had before if any; returns when it accepts connections."""
        raise NotImplementedError

    def client(self) -> Client:
        """A new connection to it."""
        return Client(self.host, self.port)

    def close(self) -> None:
        """End it, if it still runs."""
        if self.process is not None:
            self.kill()

    def stop(self) -> int:
        """Stop it in order; returns its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self._ended()

    def kill(self) -> None:
        """End it as a crash does."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        assert self.process is not None
        code = self.process.wait(TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    def _log(self) -> IO[str]:
        return open(self.folder / "broker.err", "a", encoding="utf-8")


class MosquittoProcess(BrokerProcess):
    """Mosquitto with persistence, and queues that lose nothing."""

    CONFIGURATION = """
        listener {port} {host}
        allow_anonymous true
        persistence true
        persistence_location {folder}/
        max_queued_messages 10000000
        max_inflight_messages 1000
        max_packet_size 67108864
        set_tcp_nodelay true
        sys_interval 1
    """

    @classmethod
    def executable(cls) -> str | None:
        """Its path; Debian keeps it in /usr/sbin."""
        return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, or None."""
        return None if cls.executable() else "mosquitto is not installed; try `apt install mosquitto`"

    def start(self) -> None:
        """Start it and wait for its port: it prints nothing when it is ready."""
        if not self.port:
            with socket.socket() as probe:
                probe.bind((self.host, 0))
                self.port = probe.getsockname()[1]
        configuration = self.folder / "mosquitto.conf"
        lines = self.CONFIGURATION.format(host=self.host, port=self.port, folder=self.folder).strip().splitlines()
        user = "user root\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        configuration.write_text(user + "\n".join(line.strip() for line in lines) + "\n")
        executable = self.executable()
        assert executable is not None
        with self._log() as log:
            self.process = subprocess.Popen([executable, "-c", str(configuration)], stderr=log, text=True)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                Client(self.host, self.port).socket.close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < deadline and self.process.poll() is None, "mosquitto does not start"
                threading.Event().wait(0.01)


class EmbeddedProcess(BrokerProcess):
    """`python -m ether_broker`."""

    ARGUMENTS: ClassVar[list[str]] = []

    def start(self) -> None:
        """Start it and wait for its line."""
        command = [sys.executable, "-m", "ether_broker", "--listen", f"{self.host}:{self.port}"]
        command += ["--data", str(self.folder / "data"), *self.ARGUMENTS]
        with self._log() as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening mqtt://"), (self.folder / "broker.err").read_text()
        self.port = int(line.rpartition(":")[2])


class Connect(Protocol):
    """What the `client` fixture is: a new `Client`, connected unless told otherwise, closed at the end of the test."""

    def __call__(
        self, client_id: str = "", *, clean: bool = True, keepalive_s: int = 0,
        will: tuple[str, bytes, int, bool] | None = None, connected: bool = True,
    ) -> Client: ...  # fmt: skip


MALFORMED = {
    "reserved packet type 0": b"\x00\x00",
    "reserved packet type 15": b"\xf0\x00",
    "PUBLISH at QoS 3": wire.publish("a", qos=3),
    "PUBLISH with packet identifier 0": wire.publish("a", qos=1, packet_id=0),
    "PUBLISH to an empty topic": wire.publish("", qos=1),
    "PUBLISH to a wildcard": wire.publish("a/+", qos=1),
    "PUBLISH to #": wire.publish("#", qos=1),
    "PUBLISH whose topic is longer than the packet": b"\x30\x04\x00\x09ab",
    "PUBLISH without a topic": b"\x30\x01\x00",
    "PUBLISH with invalid UTF-8": wire.publish(b"a\xff", qos=1),
    "PUBLISH with a surrogate": wire.publish(b"a\xed\xa0\x80", qos=1),
    "PUBLISH with U+0000": wire.publish("a\0b", qos=1),
    "PUBLISH with 250 levels": wire.publish("/".join("a" * 250), qos=1),
    "SUBSCRIBE without filters": wire.subscribe(),
    "SUBSCRIBE to an empty filter": wire.subscribe(("", 0)),
    "SUBSCRIBE to a#": wire.subscribe(("a#", 0)),
    "SUBSCRIBE to #/a": wire.subscribe(("#/a", 0)),
    "SUBSCRIBE to a+/b": wire.subscribe(("a+/b", 0)),
    "SUBSCRIBE at QoS 3": wire.subscribe(("a", 3)),
    "SUBSCRIBE with packet identifier 0": wire.subscribe(("a", 0), packet_id=0),
    "SUBSCRIBE with wrong flags": b"\x80" + wire.subscribe(("a", 0))[1:],
    "SUBSCRIBE with invalid UTF-8": wire.subscribe((b"\xc3\x28", 0)),
    "SUBSCRIBE with 250 levels": wire.subscribe(("/".join("a" * 250), 0)),
    "UNSUBSCRIBE without filters": wire.unsubscribe(),
    "UNSUBSCRIBE from a#": wire.unsubscribe("a#"),
    "UNSUBSCRIBE with 250 levels": wire.unsubscribe("/".join("a" * 250)),
    "PUBREL with wrong flags": wire.acknowledge(0x60, 1),
    "a second CONNECT": wire.connect("second"),
    "a remaining length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "a packet over the limit": b"\x30\xff\xff\xff\x7f\x00\x01a",
}
"""Name → bytes that must close the connection, and nothing else."""

REFUSED_CONNECTS = {
    "not CONNECT": wire.publish("a"),
    "reserved flag": wire.packet(0x10, wire.string("MQTT") + b"\x04\x03\x00\x00" + wire.string("r")),
    "unknown protocol": wire.packet(0x10, wire.string("MQXX") + b"\x04\x02\x00\x00" + wire.string("r")),
    "password without user": wire.packet(0x10, wire.string("MQTT") + b"\x04\x42\x00\x00" + wire.string("r") * 2),
    "will QoS 3": wire.packet(0x10, wire.string("MQTT") + b"\x04\x1e\x00\x00" + wire.string("r") * 3),
    "will QoS without will": wire.packet(0x10, wire.string("MQTT") + b"\x04\x0a\x00\x00" + wire.string("r")),
    "will to a wildcard": wire.connect("r", will=("w/#", b"", 0, False)),
    "will of 250 levels": wire.connect("r", will=("/".join("w" * 250), b"", 0, False)),
    "identifier missing": wire.packet(0x10, wire.string("MQTT") + b"\x04\x02\x00\x00"),
    "identifier with invalid UTF-8": wire.packet(
        0x10, wire.string("MQTT") + b"\x04\x02\x00\x00" + wire.string(b"\xff")
    ),
}
"""Name → first bytes of a connection that must be closed without CONNACK 0."""


class BrokerContract:
    """What any broker must do for ether. Subclass and set `broker`."""

    broker: ClassVar[type[BrokerUnderTest]]
    """How to start it."""

    differences: ClassVar[Mapping[str, str]] = {}
    """Test → what this broker does instead: the test must fail, or the entry is wrong. With its parameters,
    ``test_x[name]``, an entry stands for one case, without them for all."""

    keepalive_s: ClassVar[int] = 1
    """The shortest keepalive of which the broker allows one and a half."""

    repeats: ClassVar[bool] = False
    """It sends again what is not acknowledged in time, though the connection stands; later ones may have come first."""

    @pytest.fixture(autouse=True)
    def _expect_difference(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Demand that a test fails where the broker is known to differ; nobody waits long for what never comes."""
        name = request.node.name
        instead = self.differences.get(name) or self.differences.get(name.partition("[")[0])
        if instead is not None:
            request.applymarker(pytest.mark.xfail(reason=instead, strict=True))
            monkeypatch.setattr(sys.modules[__name__], "TIMEOUT_S", 0.3)

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUnderTest]:
        """The broker all tests of the class share."""
        yield from cls._run(tmp_path_factory.mktemp("broker"))

    @classmethod
    def _run(cls, folder: Path) -> Iterator[Any]:
        reason = cls.broker.missing()
        if reason is not None:
            if os.environ.get("ETHER_TEST_REQUIRE_ALL") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        broker = cls.broker(folder)
        broker.start()
        yield broker
        broker.close()

    @pytest.fixture
    def client(self, request: pytest.FixtureRequest) -> Iterator[Connect]:
        """Makes connected clients; see `Connect`."""
        name = "own_server" if "own_server" in request.fixturenames else "server"
        server: BrokerUnderTest = request.getfixturevalue(name)
        clients: list[Client] = []

        def connect(
            client_id: str = "", *, clean: bool = True, keepalive_s: int = 0,
            will: tuple[str, bytes, int, bool] | None = None, connected: bool = True,
        ) -> Client:  # fmt: skip
            new = server.client()
            clients.append(new)
            if connected:
                new.connect(client_id, clean=clean, keepalive_s=keepalive_s, will=will)
            return new

        yield connect
        for each in clients:
            each.socket.close()

    # -- retained --

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_retained_is_set_replaced_and_cleared(self, client: Connect, qos: int) -> None:
        publisher = client()

        seen = []
        for payload in (b"one", b"two", b""):
            publisher.publish("retained/set", payload, qos, retain=True)
            subscriber = client()
            subscriber.subscribe(("retained/set", 2))
            seen.append([(m.payload, m.retain) for m in subscriber.drain()])

        assert seen == [[(b"one", True)], [(b"two", True)], []]

    def test_retained_goes_only_to_matching_subscribers(self, client: Connect) -> None:
        publisher = client()
        for topic in ("retained/a/1", "retained/a/2", "retained/b/1"):
            publisher.publish(topic, retain=True)
        wild, other, nothing = client(), client(), client()

        wild.subscribe(("retained/a/+", 0))
        other.subscribe(("retained/c", 0))

        assert sorted(m.topic for m in wild.drain()) == ["retained/a/1", "retained/a/2"]
        assert other.drain() == [] == nothing.drain()

    def test_retained_comes_once_per_subscription(self, client: Connect) -> None:
        client().publish("retained/once", retain=True)
        subscriber = client()

        first = subscriber.subscribe(("retained/once", 0)) and subscriber.drain()
        again = subscriber.subscribe(("retained/once", 0)) and subscriber.drain()

        assert (len(first), len(again)) == (1, 1)

    @pytest.mark.parametrize("published", [0, 1, 2])
    @pytest.mark.parametrize("granted", [0, 1, 2])
    def test_qos_is_the_lower_of_both(self, client: Connect, published: int, granted: int) -> None:
        topic = f"qos/{published}/{granted}"
        live, late, publisher = client(), client(), client()
        assert live.subscribe((topic, granted)) == [granted]

        publisher.publish(topic, b"v", published, retain=True)
        late.subscribe((topic, granted))

        (now,), (replayed,) = live.messages(1), late.messages(1)
        assert (now.qos, now.retain, now.payload) == (min(published, granted), False, b"v")
        assert (replayed.qos, replayed.retain, replayed.payload) == (min(published, granted), True, b"v")

    def test_clearing_retained_reaches_live_subscribers_unflagged(self, client: Connect) -> None:
        publisher, subscriber = client(), client()
        publisher.publish("retained/clear", b"v", retain=True)
        subscriber.subscribe(("retained/clear", 1))
        subscriber.messages(1)

        publisher.publish("retained/clear", b"", retain=True)

        (message,) = subscriber.messages(1)
        assert (message.payload, message.retain) == (b"", False)

    def test_retained_is_not_replayed_when_a_session_resumes(self, client: Connect) -> None:
        client().publish("retained/resume", retain=True)
        first = client("resumer", clean=False)
        first.subscribe(("retained/resume", 1))
        first.messages(1)
        first.disconnect()

        again = client("resumer", clean=False)

        assert again.drain() == []

    def test_clients_that_connect_together_all_work(self, client: Connect) -> None:
        publisher = client()
        for number in range(20):
            publisher.publish(f"together/state/{number}", retain=True)
        clients = [client(connected=False) for _ in range(100)]

        for number, each in enumerate(clients):
            each.send(wire.connect(f"together-{number}"), wire.subscribe((f"together/{number}", 1)))
        for each in clients:
            each.expect(2)
            each.expect(9)
        publisher.publish_many([wire.publish(f"together/{number}", qos=1) for number in range(100)])

        assert [len(each.messages(1)) for each in clients] == [1] * 100

    # -- wills --

    def test_will_follows_an_abrupt_loss(self, client: Connect) -> None:
        watcher = client()
        watcher.subscribe(("will/abrupt", 2))

        client(will=("will/abrupt", b"gone", 1, False)).abort()

        (will,) = watcher.messages(1)
        assert (will.payload, will.qos, will.retain) == (b"gone", 1, False)

    def test_will_is_dropped_by_disconnect(self, client: Connect) -> None:
        watcher = client()
        watcher.subscribe(("will/clean", 0))

        client(will=("will/clean", b"gone", 0, False)).disconnect()

        assert watcher.drain() == []

    def test_retained_will_waits_for_late_subscribers(self, client: Connect) -> None:
        watcher, late = client(), client()
        watcher.subscribe(("will/retained", 0))
        client(will=("will/retained", b"gone", 1, True)).abort()
        watcher.messages(1)

        late.subscribe(("will/retained", 1))

        (will,) = late.messages(1)
        assert (will.payload, will.retain) == (b"gone", True)

    def test_will_follows_a_malformed_packet(self, client: Connect) -> None:
        watcher = client()
        watcher.subscribe(("will/malformed", 0))

        client(will=("will/malformed", b"gone", 0, False)).send(b"\xf0\x00")

        assert watcher.messages(1)[0].payload == b"gone"

    def test_will_follows_silence_of_one_and_a_half_keepalives(self, server: BrokerUnderTest, client: Connect) -> None:
        watcher = client()
        watcher.subscribe(("will/silent", 0))
        started = server.now()

        silent = client(keepalive_s=self.keepalive_s, will=("will/silent", b"gone", 0, False))

        assert watcher.messages(1)[0].payload == b"gone"
        assert server.now() - started >= 1.5 * self.keepalive_s - 0.1
        assert silent.wait_closed() == []

    def test_will_follows_a_takeover(self, client: Connect) -> None:
        watcher = client()
        watcher.subscribe(("will/takeover", 0))
        client("taken", will=("will/takeover", b"gone", 0, False))

        client("taken")

        assert watcher.messages(1)[0].payload == b"gone"

    # -- sessions --

    def test_session_present_says_whether_there_was_one(self, client: Connect) -> None:
        present = []
        for clean in (False, False, True, False, True):
            new = client(connected=False)
            present.append(new.connect("present", clean=clean))
            new.disconnect()

        assert present == [False, True, False, False, False]

    @pytest.mark.parametrize("granted", [1, 2])
    def test_absent_client_finds_its_messages_in_order(self, client: Connect, granted: int) -> None:
        name = f"away-{granted}"  # the other one's session may not be settled yet
        away = client(name, clean=False)
        away.subscribe((f"{name}/+", granted))
        away.disconnect()
        publisher = client()

        for number in range(20):
            publisher.publish(f"{name}/{number % 3}", b"%d" % number, qos=number % 3)
        found = client(name, clean=False).messages(13)

        qos = [min(number % 3, granted) for number in range(20)]
        expected = [(b"%d" % number, qos[number], False, False) for number in range(20) if qos[number]]
        assert [(m.payload, m.qos, m.retain, m.dup) for m in found] == expected

    def test_queue_of_an_absent_client_outgrows_the_packet_identifiers(self, client: Connect) -> None:
        away = client("long-away", clean=False)
        away.subscribe(("long/away", 1))
        away.disconnect()
        publisher = client()

        for start in range(0, 70_000, 10_000):
            numbers = range(start, start + 10_000)
            publisher.publish_many([wire.publish("long/away", b"%d" % n, 1, n % 65535 + 1) for n in numbers])
        found = client("long-away", clean=False).messages(70_000)

        assert [int(m.payload) for m in found] == list(range(70_000))

    def test_clean_session_forgets(self, client: Connect) -> None:
        first = client("forgetful", clean=False)
        first.subscribe(("forget", 1))
        first.disconnect()
        client("forgetful").disconnect()

        client().publish("forget")

        assert client("forgetful", clean=False).drain() == []

    def test_unacknowledged_messages_return_flagged_after_reconnect_in_order(self, client: Connect) -> None:
        first = client("unacked", clean=False)
        first.subscribe(("unacked", 1))
        client().publish_many([wire.publish("unacked", b"%d" % n, 1, n + 1) for n in range(20)])
        seen = first.messages(20, acknowledge=False)
        assert first.drain() == [], "sent again within a living connection"
        first.abort()

        again = client("unacked", clean=False).messages(20)

        assert [(m.payload, m.packet_id, m.dup) for m in again] == [(m.payload, m.packet_id, True) for m in seen]

    def test_packet_identifiers_in_flight_are_unique(self, client: Connect) -> None:
        subscriber = client()
        subscriber.subscribe(("flight", 1))
        client().publish_many([wire.publish("flight", b"", 1, n + 1) for n in range(500)])

        found = subscriber.messages(500, acknowledge=False)

        assert len({m.packet_id for m in found} - {0}) == 500

    # -- QoS flows --

    def test_qos_2_duplicate_is_delivered_once(self, client: Connect) -> None:
        subscriber, publisher = client(), client()
        subscriber.subscribe(("exactly/once", 2))
        publisher.send(wire.publish("exactly/once", b"v", 2, 7), wire.publish("exactly/once", b"v", 2, 7, dup=True))
        assert [publisher.expect(5).packet_id for _ in range(2)] == [7, 7]
        publisher.send(wire.acknowledge(0x62, 7), wire.acknowledge(0x62, 7))
        assert [publisher.expect(7).packet_id for _ in range(2)] == [7, 7]

        (message,) = subscriber.messages(1)
        subscriber.send(wire.acknowledge(0x62, 9))  # a PUBREL nobody expects is answered as well

        assert (message.qos, message.dup) == (2, False)
        assert sorted(subscriber.receive().kind for _ in range(2)) == [6, 7]
        assert subscriber.drain() == []

    def test_qos_2_survives_a_reconnect_of_the_publisher(self, client: Connect) -> None:
        subscriber = client()
        subscriber.subscribe(("exactly/resumed", 2))
        publisher = client("twice", clean=False)
        publisher.send(wire.publish("exactly/resumed", b"v", 2, 7))
        publisher.expect(5)
        publisher.abort()

        again = client("twice", clean=False)
        again.send(wire.publish("exactly/resumed", b"v", 2, 7, dup=True))
        again.expect(5)
        again.send(wire.acknowledge(0x62, 7))
        again.expect(7)

        assert len(subscriber.messages(1)) == 1
        assert [packet.kind for packet in subscriber.drain() if packet.kind == 3] == []

    def test_qos_2_goes_on_where_the_subscriber_left(self, client: Connect) -> None:
        first = client("half", clean=False)
        first.subscribe(("half", 2))
        publisher = client()
        publisher.publish("half", b"confirmed", 2)
        publisher.publish("half", b"unconfirmed", 2)
        one, two = first.messages(2, acknowledge=False)
        first.send(wire.acknowledge(0x50, one.packet_id))
        first.expect(6)
        first.abort()

        again = client("half", clean=False)
        packets = {(p.kind, p.packet_id, p.dup and p.kind == 3) for p in (again.receive(), again.receive())}

        assert packets == {(6, one.packet_id, False), (3, two.packet_id, True)}

    def test_acknowledgements_nobody_expects_do_no_harm(self, client: Connect) -> None:
        each = client()

        each.send(*(wire.acknowledge(first, 9) for first in (0x40, 0x50, 0x62, 0x70)))

        assert sorted(each.receive().kind for _ in range(2)) == [6, 7]
        assert each.drain() == []

    def test_order_holds_across_topics(self, client: Connect) -> None:
        subscriber, publishers = client(), [client(), client()]
        subscriber.subscribe(("order/+", 1), ("order/+/deep", 1))
        for number in range(200):
            publishers[number % 2].publish(f"order/{number % 7}" + ("/deep" if number % 3 else ""), b"%d" % number)

        found = subscriber.messages(200)

        assert [int(m.payload) for m in found] == list(range(200))

    def test_client_hears_itself_at_every_qos(self, client: Connect) -> None:
        each = client()
        each.subscribe(("echo", 2))

        each.send(*(wire.publish("echo", b"%d" % qos, qos, qos) for qos in range(3)), wire.acknowledge(0x62, 2))
        packets = [each.receive() for _ in range(6)]

        assert sorted(packet.kind for packet in packets) == [3, 3, 3, 4, 5, 7]
        assert [(m.qos, m.payload) for m in packets if m.kind == 3] == [(0, b"0"), (1, b"1"), (2, b"2")]

    def test_subscribe_and_unsubscribe_take_effect_between_publishes(self, client: Connect) -> None:
        each = client()

        each.send(
            wire.publish("between", b"before"),
            wire.subscribe(("between", 0)),
            wire.publish("between", b"during"),
            wire.unsubscribe("between"),
            wire.publish("between", b"after"),
            wire.subscribe(("between", 1)),
            wire.publish("between", b"again"),
        )

        found = each.drain()
        assert [p.payload if p.kind == 3 else p.kind for p in found] == [9, b"during", 11, 9, b"again"]

    @pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 65_536, 1_000_003])
    def test_payload_arrives_as_sent(self, client: Connect, size: int) -> None:
        subscriber, publisher = client(), client()
        subscriber.subscribe((f"size/{size}", 1))
        payload = os.urandom(size)

        publisher.publish(f"size/{size}", payload)

        assert subscriber.messages(1)[0].payload == payload

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_sixteen_megabytes_arrive_as_sent(self, client: Connect, qos: int) -> None:
        subscriber, publisher = client(), client()
        subscriber.subscribe(("large", qos))
        payload = os.urandom(1 << 20) * 16

        publisher.publish("large", payload, qos)

        assert subscriber.messages(1)[0].payload == payload

    def test_packets_may_come_byte_by_byte(self, client: Connect) -> None:
        each = client(connected=False)

        for byte in wire.connect("slow") + wire.subscribe(("slow", 1)) + wire.publish("slow", b"v", 1):
            each.send(bytes((byte,)))

        assert sorted(each.receive().kind for _ in range(4)) == [2, 3, 4, 9]

    # -- matching --

    @pytest.mark.parametrize(
        ("topic_filter", "matching", "others"),
        [
            ("match/1/+", ["match/1/a", "match/1/"], ["match/1", "match/1/a/b"]),
            ("match/2/#", ["match/2", "match/2/a", "match/2/a/b"], ["match/20"]),
            ("match/3/+/c/#", ["match/3/b/c", "match/3/b/c/d"], ["match/3/c", "match/3/b/d/c"]),
            ("match/4//+", ["match/4//a"], ["match/4/a", "match/4/b/a"]),
            ("+/match/5", ["/match/5", "a/match/5"], ["match/5", "a/b/match/5"]),
            ("match/6", ["match/6"], ["match/6/", "Match/6", "/match/6"]),
            ("match/ü/€/😀", ["match/ü/€/😀"], ["match/u/€/😀"]),
        ],
    )
    def test_filters_match(self, client: Connect, topic_filter: str, matching: list[str], others: list[str]) -> None:
        subscriber, publisher = client(), client()
        subscriber.subscribe((topic_filter, 0))

        for topic in matching + others:
            publisher.publish(topic)

        assert [m.topic for m in subscriber.drain()] == matching

    def test_leading_wildcards_do_not_match_dollar_topics(self, client: Connect) -> None:
        everything, plus, literal, publisher = client(), client(), client(), client()
        everything.subscribe(("#", 0))
        plus.subscribe(("+/dollar", 0))
        literal.subscribe(("$lab/dollar", 0))

        publisher.publish("$lab/dollar")

        assert [m.topic for m in literal.drain()] == ["$lab/dollar"]
        assert [m for m in everything.drain() if m.topic.startswith("$")] == [] == plus.drain()

    @pytest.mark.parametrize("topic", ["$SYS/broker/uptime", "$CONTROL/x", "$share/group/x"])
    def test_publish_to_the_brokers_own_topics_is_ignored(self, client: Connect, topic: str) -> None:
        each = client()
        each.subscribe(("own/topics", 1))

        each.publish(topic, b"forged", retain=True)
        each.send(wire.publish("own/topics", b"still here", 1, 9))

        assert {each.receive().kind, each.receive().kind} == {3, 4}

    def test_overlapping_subscriptions_deliver_once(self, client: Connect) -> None:
        subscriber = client()
        for topic_filter in ("overlap/#", "overlap/+", "overlap/x"):
            subscriber.subscribe((topic_filter, 1))

        client().publish("overlap/x")

        assert [m.qos for m in subscriber.drain()] == [1]

    def test_subscribing_again_changes_the_qos(self, client: Connect) -> None:
        subscriber, publisher = client(), client()
        seen = []
        for qos in (0, 1, 0):
            subscriber.subscribe(("again", qos))
            publisher.publish("again")
            seen.append([m.qos for m in subscriber.messages(1)])

        assert seen == [[0], [1], [0]]

    def test_unsubscribe_ends_one_subscription(self, client: Connect) -> None:
        subscriber, publisher = client(), client()
        subscriber.subscribe(("un/a", 0), ("un/b", 0))

        subscriber.send(wire.unsubscribe("un/a", "un/never", packet_id=77))
        assert subscriber.expect(11).packet_id == 77
        publisher.publish("un/a")
        publisher.publish("un/b")

        assert [m.topic for m in subscriber.drain()] == ["un/b"]

    def test_shared_subscription_gives_each_message_to_one_member(self, client: Connect) -> None:
        workers, plain, publisher = [client() for _ in range(3)], client(), client()
        for worker in workers:
            worker.subscribe(("$share/team/job/#", 1))
        plain.subscribe(("job/#", 1))

        for number in range(30):
            publisher.publish(f"job/{number}", b"%d" % number)

        shares = [[int(m.payload) for m in worker.drain()] for worker in workers]
        assert sorted(number for share in shares for number in share) == list(range(30))
        assert [len(share) for share in shares] == [10, 10, 10]
        assert len(plain.messages(30)) == 30

    def test_shared_subscription_goes_on_without_a_member(self, client: Connect) -> None:
        first, second, publisher = client(), client(), client()
        first.subscribe(("$share/rest/task", 1))
        second.subscribe(("$share/rest/task", 1))
        first.disconnect()

        for _ in range(4):
            publisher.publish("task")
        second.send(wire.unsubscribe("$share/rest/task"))

        assert [p.kind for p in second.drain()] == [3, 3, 3, 3, 11]

    # -- who may connect, and how --

    def test_two_clients_without_identifier_are_two(self, client: Connect) -> None:
        first, second = client(""), client("")

        assert first.drain() == [] == second.drain()

    def test_persistent_session_needs_an_identifier(self, client: Connect) -> None:
        each = client(connected=False)

        each.send(wire.connect("", clean=False))

        assert each.expect(2).body == b"\x00\x02"
        assert each.wait_closed() == []

    def test_takeover_closes_the_older_connection_and_keeps_the_session(self, client: Connect) -> None:
        first = client("owner", clean=False)
        first.subscribe(("takeover", 1))

        second = client(connected=False)
        present = second.connect("owner", clean=False)

        assert present
        assert first.wait_closed() == []
        client().publish("takeover")
        assert len(second.messages(1)) == 1

    @pytest.mark.parametrize("name", MALFORMED)
    def test_malformed_packet_closes_that_connection_only(self, client: Connect, name: str) -> None:
        other, each = client(), client()

        each.send(MALFORMED[name])

        assert each.wait_closed() == []
        assert other.drain() == []

    @pytest.mark.parametrize("name", REFUSED_CONNECTS)
    def test_bad_connect_is_refused(self, client: Connect, name: str) -> None:
        each = client(connected=False)

        each.send(REFUSED_CONNECTS[name])

        assert [packet for packet in each.wait_closed() if packet.body == b"\x00\x00"] == []

    def test_unknown_protocol_level_is_answered(self, client: Connect) -> None:
        each = client(connected=False)

        each.send(wire.packet(0x10, wire.string("MQTT") + b"\x09\x02\x00\x00" + wire.string("r")))

        assert each.expect(2).body == b"\x00\x01"
        assert each.wait_closed() == []

    def test_keepalive_is_refreshed_by_pings(self, server: BrokerUnderTest, client: Connect) -> None:
        each = client(keepalive_s=1)
        deadline = server.now() + 3

        while server.now() < deadline:
            assert each.drain() == []
            server.pause(0.2)

    # -- $SYS --

    def test_sys_counters_come_retained_and_change(self, client: Connect) -> None:
        watcher = client()
        names = ["version", "uptime", "clients/connected", "publish/messages/dropped", "messages/received"]
        names += ["messages/sent", "bytes/received", "bytes/sent", "retained messages/count", "subscriptions/count"]

        watcher.subscribe(*[("$SYS/broker/" + name, 0) for name in names])

        found = {m.topic.removeprefix("$SYS/broker/"): m for m in watcher.messages(len(names))}

        assert sorted(found) == sorted(names)
        assert all(int(m.payload.split()[0]) >= 0 for name, m in found.items() if name != "version")


class ProcessContract(BrokerContract):
    """What a broker must do, too, that is a process on a socket."""

    broker: ClassVar[type[BrokerProcess]]
    """How to start it."""

    @pytest.fixture
    def own_server(self, tmp_path: Path) -> Iterator[BrokerProcess]:
        """A broker of the test's own, to stop and kill."""
        yield from self._run(tmp_path)

    # -- restarts --

    def test_will_follows_the_stop_of_the_broker(self, own_server: BrokerProcess, client: Connect) -> None:
        client("device", will=("will/stop", b"gone", 1, True))

        assert own_server.stop() == 0
        own_server.start()

        late = client()
        late.subscribe(("will/stop", 1))
        assert late.messages(1)[0].payload == b"gone"

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_restart_loses_nothing_acknowledged(self, own_server: BrokerProcess, client: Connect, how: str) -> None:
        recorder = client("recorder", clean=False)
        recorder.subscribe(("data/#", 1))
        publisher = client("publisher")
        publisher.publish_many([wire.publish("data/x", b"%d" % n, 1, n + 1) for n in range(10)])
        in_flight = recorder.messages(10, acknowledge=False)
        recorder.send(wire.acknowledge(0x40, in_flight[0].packet_id))
        recorder.drain()
        recorder.abort()
        for number in range(50):
            publisher.publish(f"state/{number}", b"%d" % number, retain=True)
        publisher.publish("state/0", b"", retain=True)
        publisher.publish_many([wire.publish("data/x", b"%d" % n, 1, n + 1) for n in range(10, 60)])
        if how == "kill":
            self.settle(own_server)

        getattr(own_server, how)()
        own_server.start()

        again = client(connected=False)
        assert again.connect("recorder", clean=False)
        found = again.messages(59)
        assert [int(m.payload) for m in found] == list(range(1, 60))
        assert [m.retain for m in found] == [False] * 59
        client().publish("data/new", b"new")  # the subscription is there too
        assert again.messages(1)[0].payload == b"new"
        late = client()
        late.subscribe(("state/#", 1))
        assert sorted(int(m.payload) for m in late.messages(49)) == list(range(1, 50))

    def settle(self, server: BrokerProcess) -> None:
        """For a broker that acknowledges before it has written: wait until it has. Not needed by an honest one."""

    # -- load --

    @pytest.mark.parametrize("clean", [True, False])
    def test_stalled_subscriber_disturbs_nobody_and_loses_nothing(self, client: Connect, clean: bool) -> None:
        topic, total, payload = f"stall/{clean}", 20_000, bytes(2000)
        stalled, other, publisher = client("stalled", clean=clean), client(), client()
        stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stalled.subscribe((topic, 1))
        other.subscribe((topic, 1))
        packets = [wire.publish(topic, b"%06d" % n + payload, 1, n + 1) for n in range(total)]
        sending = threading.Thread(target=publisher.publish_many, args=(packets,))
        sending.start()

        def read(subscriber: Client, got: list[int], number: int) -> None:
            while missing := number - len(set(got) if self.repeats else got):
                got.extend(int(m.payload[:6]) for m in subscriber.messages(missing))

        got: list[int] = []
        late: list[int] = []
        read(other, got, 2000)  # while nobody reads `stalled`
        reading = threading.Thread(target=read, args=(stalled, late, total))
        reading.start()
        read(other, got, total)
        reading.join()
        sending.join()

        for each in (got, late):
            assert (sorted(set(each)) if self.repeats else each) == list(range(total))

    def test_two_clients_that_flood_each_other_do_not_lock_up(self, client: Connect) -> None:
        total, packets = 5000, [wire.publish(f"flood/{n}", bytes(4000), 1, 1) for n in range(2)]
        pair, locks = [client(), client()], [threading.Lock(), threading.Lock()]
        for number, each in enumerate(pair):
            each.subscribe((f"flood/{number}", 1))

        def send(number: int) -> None:
            for _ in range(total // 100):
                with locks[number]:
                    pair[number].send(*[packets[1 - number]] * 100)

        def take(number: int) -> None:
            left = total
            while left:
                packet = pair[number].receive()
                if packet.kind == 3:
                    left -= 1
                    with locks[number]:
                        pair[number].send(wire.acknowledge(0x40, packet.packet_id))

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for work in (send, take) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * TIMEOUT_S)

        assert not any(thread.is_alive() for thread in threads)

    # -- a client library --

    def test_paho_publishes_and_subscribes(self, server: BrokerProcess) -> None:
        paho = pytest.importorskip("paho.mqtt.client")
        arrived: list[tuple[str, bytes]] = []
        subscribed, complete = threading.Event(), threading.Event()
        each = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho")

        def on_message(_client: object, _data: object, message: object) -> None:
            arrived.append((message.topic, message.payload))  # type: ignore[attr-defined]  # paho is optional here
            if len(arrived) == 300:
                complete.set()

        each.on_connect = lambda *_: each.subscribe("paho/#", 2)
        each.on_subscribe = lambda *_: subscribed.set()
        each.on_message = on_message
        each.connect(server.host, server.port)
        each.loop_start()
        assert subscribed.wait(TIMEOUT_S)
        for number in range(300):
            each.publish(f"paho/{number}", b"%d" % number, number % 3)
        assert complete.wait(TIMEOUT_S)
        each.disconnect()
        each.loop_stop()

        assert sorted(arrived) == sorted((f"paho/{n}", b"%d" % n) for n in range(300))
