"""Memory broker: the embedded broker without sockets, disk, threads or time of its own, for tests.

It is that broker's own code; what is exchanged is MQTT 3.1.1, byte for byte. Why: docs/decisions/0012.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ether.mqtt import Connection
from ether.testing.fake_clock import FakeClock
from ether_broker.broker import LOOK_EVERY_S, EtherBroker
from ether_broker.connection import Connection as BrokerConnection

__all__ = ["MemoryBroker", "MemoryConnection", "MemorySocket"]

_BACKOFF_S = (0.1, 1.5)
"""As of `ether.mqtt`, without jitter."""


class MemoryBroker:
    """An MQTT broker in this process: `dial` returns a client's end of a connection."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        """Begin, with nothing retained.

        Args:
            clock: whose time it lives by; default one of its own.
        """
        self.clock = clock or FakeClock()
        self._engine = _in_a_thread(
            lambda: EtherBroker(
                {"listeners": {"default": {"type": "tcp", "bind": ""}}, "plugins": {}}, loop=_Loop(self.clock)
            )
        )
        self._look_around()

    def dial(self) -> MemorySocket:
        """Return the client's end of a new connection."""
        client = MemorySocket(self.clock)
        protocol = BrokerConnection(self._engine, "memory")
        client.peer = protocol
        protocol.connection_made(_Transport(client))  # type: ignore[arg-type]  # as much of one as it needs
        return client

    def connection(self, url: str, client_id: str, **options: Any) -> MemoryConnection:
        """Return a `Connection` to this broker; arguments as of that class."""
        return MemoryConnection(self, url, client_id, **options)

    def _look_around(self) -> None:
        self._engine.look_around()
        self.clock.later(LOOK_EVERY_S, self._look_around)


class MemorySocket:
    """A client's end of a connection in memory, as far as paho and the broker contract need a socket.

    What is sent arrives before time passes, in the order of sending, in the thread that drives the clock.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.on_data: Callable[[], object] = lambda: None
        """Called when there is something to receive, be it the end."""
        self.peer: Any = None
        self.reading = True
        self._clock = clock
        self._sent: list[bytes] = []
        self._received = bytearray()
        self._over = False
        self._closed = False

    # what a client calls

    def send(self, data: bytes) -> int:
        """Send everything; ConnectionResetError once the connection is over."""
        if self._over or self._closed:
            raise ConnectionResetError("the connection is over")
        self._sent.append(bytes(data))
        self._clock.soon(self._deliver)
        return len(data)

    def sendall(self, data: bytes) -> None:
        if not self._over:  # as a socket, which learns of it later
            self.send(data)

    def recv(self, size: int) -> bytes:
        """Return what has come; empty at the end, BlockingIOError where nothing has."""
        if not self._received and not self._over:
            raise BlockingIOError
        piece = bytes(self._received[:size])
        del self._received[:size]
        return piece

    def readable(self) -> bool:
        return bool(self._received) or self._over

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._clock.soon(self._end)

    def shutdown(self, how: int) -> None:
        """End it from this side."""
        self.cut()

    def cut(self) -> None:
        """End it at both ends at once; what is under way is lost."""
        self._sent.clear()
        self._received.clear()
        self._end()

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def setsockopt(self, *options: object) -> None:
        """There is nothing to set."""

    def settimeout(self, timeout: float | None) -> None:
        """It never blocks."""

    # what the broker's end calls

    def arrive(self, data: bytes) -> None:
        if not self._over and not self._closed:
            self._received += data
            self._clock.soon(self.on_data)

    def deliver_later(self) -> None:
        self._clock.soon(self._deliver)

    def end_later(self) -> None:
        self._clock.soon(self._end)

    def _deliver(self) -> None:
        while self._sent and self.reading and not self._over:
            self.peer.data_received(self._sent.pop(0))

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self.peer.connection_lost(None)
            self._clock.soon(self.on_data)


class _Transport:
    """The broker's end of a connection: as much of an asyncio transport as it uses."""

    def __init__(self, client: MemorySocket) -> None:
        self._client = client
        self.max_size = 0

    def set_write_buffer_limits(self, high: int) -> None:
        """Everything is taken at once."""

    def get_extra_info(self, name: str) -> str:
        return "memory"

    def write(self, data: bytes | memoryview) -> None:
        self._client.arrive(bytes(data))

    def pause_reading(self) -> None:
        self._client.reading = False

    def resume_reading(self) -> None:
        self._client.reading = True
        self._client.deliver_later()

    def close(self) -> None:
        self._client.end_later()

    def abort(self) -> None:
        self._client.end_later()


class _Loop:
    """As much of an event loop as the broker uses, by a fake clock."""

    _ready = ()

    def __init__(self, fake: FakeClock) -> None:
        self._fake = fake
        self.time = fake.monotonic

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        self._fake.soon(lambda: function(*args))

    def call_later(self, seconds: float, function: Callable[..., object], *args: object) -> None:
        self._fake.later(seconds, lambda: function(*args))


class MemoryConnection(Connection):
    """ether's connection, paho and all, on a memory broker, and without a thread: whoever drives the clock reads."""

    def __init__(self, broker: MemoryBroker, url: str, client_id: str, **options: Any) -> None:
        super().__init__(url, client_id, **options)
        self._broker = broker
        self._socket: MemorySocket | None = None
        self._reading = False
        self._cut = False
        self._delay = _BACKOFF_S[0]
        self._client.dial = self._dial
        self._client.direct = math.inf  # nobody else writes

    @property
    def in_network_thread(self) -> bool:
        return self._reading and self._broker.clock.driven_here

    def cut(self) -> None:
        """Take the network away; both ends notice at once."""
        self._cut = True
        if self._socket is not None:
            self._socket.cut()

    def restore(self) -> None:
        """Give the network back; the connection comes back as it does after any loss."""
        self._cut = False

    def vanish(self) -> None:
        """End for good, without a goodbye, as whoever is killed does."""
        self._closing.set()
        self.cut()
        self._client.close_wakeup()

    def close(self, timeout: float = 5.0) -> bool:
        flushed = super().close(timeout)
        self._client.close_wakeup()
        return flushed

    def _begin(self) -> None:
        self._attempt()

    def _attempt(self) -> None:
        if self._closing.is_set():
            return
        self._client.connect_async("memory", 1, keepalive=0)  # a cut is noticed at once
        try:
            self._client.reconnect()
        except OSError as exc:
            self._trouble = str(exc)
            self._again()

    def _again(self) -> None:
        self._broker.clock.later(self._delay, self._attempt)
        self._delay = min(self._delay * 2, _BACKOFF_S[1])

    def _dial(self) -> MemorySocket:
        if self._cut:
            raise ConnectionRefusedError("the network is cut")
        self._socket = self._broker.dial()
        self._socket.on_data = self._read
        return self._socket

    def _read(self) -> None:
        """Handle what has come; where it was the end, come back later."""
        if self._socket is None or not self._socket.readable():
            return
        over = False
        self._reading = True
        try:
            while not over and self._socket.readable():
                over = self._client.loop_read() != 0
            if over and self.connected:
                self._lost("the connection ended")
        finally:
            self._reading = False
        if self.connected:
            self._delay = _BACKOFF_S[0]
        if over:
            self._socket = None
            if not self._closing.is_set():
                self._again()


def _in_a_thread(make: Callable[[], Any]) -> Any:
    """Return what is made where an event loop runs: amqtt asks for one, though it is not used."""

    async def work() -> Any:
        return make()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(work())).result()
