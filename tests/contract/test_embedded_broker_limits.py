"""What the embedded broker does when clients ask too much of it, with limits small enough to reach."""

import asyncio
import contextlib
import gc
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from damaged import damaged

from ether.testing.broker_contract import PINGREQ, TIMEOUT_S, Client, Closed, wire
from ether_broker.broker import EtherBroker
from ether_broker.connection import Connection
from ether_broker.limits import Limits


@contextmanager
def running(
    limits: Limits | None = None, data: Path | None = None, plugins: dict[str, Any] | None = None
) -> Iterator[tuple[EtherBroker, Callable[..., Client]]]:
    """(broker, makes connected clients); the broker runs in a thread."""
    started: list[EtherBroker] = []
    ready = threading.Event()
    stop: list[Callable[[], None]] = []

    async def run() -> None:
        config = {"listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}}, "plugins": plugins or {}}
        broker = EtherBroker(config, data, limits)
        await broker.start()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        started.append(broker)
        ready.set()
        await done.wait()
        await broker.shutdown()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    clients: list[Client] = []

    def client(client_id: str = "", *, connected: bool = True, **options: Any) -> Client:
        new = Client(*started[0].addresses[0])
        clients.append(new)
        if connected:
            new.connect(client_id, **options)
        return new

    try:
        yield started[0], client
    finally:
        for each in clients:
            each.socket.close()
        stop[0]()
        thread.join(TIMEOUT_S)


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; look twenty times a second."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def small_window(client: Client) -> Client:
    """Let little wait in this client's own socket."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    return client


@pytest.mark.parametrize("said", [b"", b"\x10", wire.connect("slow")[:-1]])
def test_socket_without_complete_connect_is_closed(said: bytes) -> None:
    with running(Limits(connect_timeout_s=0.3)) as (_, client):
        each = client(connected=False)
        each.send(said)

        assert each.wait_closed() == []


def test_connect_that_comes_byte_by_byte_is_given_no_more_time() -> None:
    with running(Limits(connect_timeout_s=0.5)) as (_, client):
        slow = client(connected=False)
        slow.socket.settimeout(0.05)
        started = time.monotonic()

        with pytest.raises(OSError, match=r"[Bb]roken pipe|reset"):
            while True:
                slow.send(b"\x10" if time.monotonic() - started < 0.05 else b"\xff")
                threading.Event().wait(0.05)

        assert time.monotonic() - started < 5


def test_damaged_streams_leave_nothing_in_the_broker() -> None:
    with running(Limits(session_expiry_s=0.1)) as (broker, client):
        chance = random.Random(2)
        before = len(asyncio.all_tasks(broker.loop))
        for _ in range(100):
            attacker = client(connected=False)
            with contextlib.suppress(OSError):
                attacker.send(damaged(chance)[0])
            attacker.abort()

        wait_for(lambda: not broker.connections and not broker.clients)
        left = (len(asyncio.all_tasks(broker.loop)), broker.filters.count, broker.held, broker.counters.holding)

        assert left == (before, 0, set(), set())
        assert broker.filters._root.empty


def test_connections_beyond_the_limit_are_closed() -> None:
    with running(Limits(connections=2)) as (_, client):
        first, second = client(), client()

        with pytest.raises(Closed):
            client()

        assert first.drain() == [] == second.drain()


def test_qos_0_to_a_stalled_client_is_dropped_and_counted() -> None:
    with running(Limits(qos0_bytes=100_000)) as (broker, client):
        stalled, publisher = small_window(client()), client()
        stalled.subscribe(("a", 0))
        sent = 200

        publisher.send(*[wire.publish("a", bytes(100_000))] * sent, PINGREQ)
        publisher.expect(13)
        stalled.send(PINGREQ)
        arrived = 0
        while stalled.receive().kind == 3:
            arrived += 1

        assert 0 < arrived < sent
        assert broker.counters.publish_dropped == sent - arrived


def test_publisher_to_a_full_queue_is_held_and_nothing_is_lost() -> None:
    limits = Limits(queue_bytes=200_000, inflight_messages=10, hold_s=0.5)
    with running(limits) as (broker, client):
        stalled, publisher, total = small_window(client()), client(), 2000
        stalled.subscribe(("a", 1))
        packets = [wire.publish("a", b"%06d" % n + bytes(1000), 1, n + 1) for n in range(total)]
        sending = threading.Thread(target=publisher.publish_many, args=(packets,))
        sending.start()
        wait_for(lambda: bool(broker.held))
        (session,) = broker.counters.holding
        waiting = session.queue_bytes

        found = stalled.messages(total)
        sending.join()

        assert [int(m.payload[:6]) for m in found] == list(range(total))
        assert waiting < limits.queue_bytes + 2 * 256 * 1024, "the queue, and a chunk or two that was read already"


def test_two_clients_that_hold_each_other_go_on() -> None:
    with running(Limits(queue_bytes=20_000, inflight_messages=5, hold_s=0.5)) as (_, client):
        pair, total = [client(), client()], 600
        for number, each in enumerate(pair):
            each.subscribe((f"to/{number}", 1))

        def flood(number: int) -> None:
            each = pair[number]
            each.send(*[wire.publish(f"to/{1 - number}", bytes(1000), 1, n + 1) for n in range(total)])
            left = 2 * total  # acknowledgements and messages
            while left:
                packet = each.receive()
                left -= 1
                if packet.kind == 3:
                    each.send(wire.acknowledge(0x40, packet.packet_id))

        threads = [threading.Thread(target=flood, args=(n,), daemon=True) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

        assert not any(thread.is_alive() for thread in threads)


def test_client_that_takes_nothing_and_holds_others_is_disconnected() -> None:
    limits = Limits(queue_bytes=50_000, inflight_messages=5, hold_s=0.5, stall_timeout_s=1.0)
    with running(limits) as (broker, client):
        stalled, publisher, total = client("stalled"), client(), 500
        stalled.subscribe(("a", 1))

        publisher.publish_many([wire.publish("a", bytes(1000), 1, n + 1) for n in range(total)])

        wait_for(lambda: "stalled" not in broker.clients)
        assert not broker.held
        assert broker.counters.publish_dropped > 0


def test_stored_session_spills_to_disk_and_holds_nobody(tmp_path: Path) -> None:
    limits = Limits(queue_bytes=100_000, inflight_messages=10)
    with running(limits, tmp_path) as (broker, client):
        recorder, publisher, total = client("recorder", clean=False), client(), 3000
        recorder.subscribe(("a", 2))
        packets = [wire.publish("a", b"%06d" % n + bytes(1000), 1, n + 1) for n in range(total)]

        publisher.publish_many(packets)
        session = broker.clients["recorder"]
        in_memory, spilled = session.queue_bytes, len(session.spilled)
        found = recorder.messages(total)

        assert not broker.held
        assert in_memory <= limits.queue_bytes < spilled * 1000
        assert [int(m.payload[:6]) for m in found] == list(range(total))


def test_queue_without_a_store_drops_and_counts_beyond_its_limit() -> None:
    with running(Limits(absent_bytes=100_000, queue_bytes=50_000)) as (broker, client):
        away = client("away", clean=False)
        away.subscribe(("a", 1))
        away.disconnect()

        client().publish_many([wire.publish("a", b"%06d" % n + bytes(1000), 1, n + 1) for n in range(200)])

        kept = 200 - broker.counters.publish_dropped
        found = client("away", clean=False).messages(kept)
        assert 0 < kept < 200
        assert [int(m.payload[:6]) for m in found] == list(range(kept))


def test_session_expires(tmp_path: Path) -> None:
    with running(Limits(session_expiry_s=0.1), tmp_path) as (broker, client):
        away = client("away", clean=False)
        away.subscribe(("a", 1))
        away.disconnect()

        wait_for(lambda: "away" not in broker.clients)

        assert not client(connected=False).connect("away", clean=False)
        assert broker.filters.count == 0
        assert broker.counters.clients_expired == 1


def test_wrong_credentials_touch_no_session() -> None:
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}
    with running(plugins=plugins) as (_, client):
        user = wire.packet(0x10, wire.string("MQTT") + b"\x04\x80\x00\x00" + wire.string("owner") + wire.string("u"))
        owner, intruder, other = (client(connected=False) for _ in range(3))
        owner.send(user, wire.subscribe(("a", 1)))
        assert [owner.receive().body[-1] for _ in range(2)] == [0, 1]

        intruder.send(wire.connect("owner"), wire.publish("a", b"forged"))

        assert [packet.body for packet in intruder.wait_closed()] == [b"\x00\x05"]
        other.send(user.replace(b"owner", b"other"))
        other.expect(2)
        other.publish("a", b"true")
        assert [m.payload for m in owner.messages(1)] == [b"true"]


def test_disk_that_refuses_stops_answers_until_it_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(data=tmp_path) as (broker, client):
        publisher = client()
        assert broker.store is not None
        write, refused = broker.store._write, threading.Event()

        def full() -> None:
            refused.set()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(broker.store, "_write", full)
        publisher.send(wire.publish("state", b"v", 1, retain=True))
        assert refused.wait(TIMEOUT_S)
        publisher.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            publisher.receive()

        monkeypatch.setattr(broker.store, "_write", write)
        publisher.socket.settimeout(TIMEOUT_S)

        assert publisher.expect(4).packet_id == 1


def test_client_that_reads_no_answers_is_not_read_on() -> None:
    with running(Limits(write_bytes=50_000, hold_s=0.5)) as (broker, client):
        deaf = small_window(client())
        (connection,) = broker.connections
        assert connection._transport is not None
        connection._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        rounds = 400
        sending = threading.Thread(target=lambda: [deaf.send(PINGREQ * 1000) for _ in range(rounds)])
        sending.start()

        wait_for(lambda: bool(broker.held))

        for _ in range(rounds * 1000):
            deaf.expect(13)
        sending.join()


def test_idle_clients_cost_little() -> None:
    psutil = pytest.importorskip("psutil")
    with running() as (_, client):
        process = psutil.Process()
        client().drain()
        before, number = process.memory_info().rss, 400
        clients = [client(f"idle-{n}") for n in range(number)]
        for n, each in enumerate(clients):
            each.subscribe((f"idle/{n}", 0))

        # Client and broker share this process: this is the cost of both ends.
        assert (process.memory_info().rss - before) / number < 40_000


@pytest.mark.parametrize("stored", [False, True])
def test_a_long_queue_leaves_in_portions_between_which_others_have_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    portions: list[int] = []
    chunks: list[int] = []
    flush, handle = Connection.flush, Connection.data_received

    def flushed(self: Connection) -> None:
        portions.append(len(self._out))
        flush(self)

    def handled(self: Connection, data: bytes) -> None:
        handle(self, data)
        if self.client_id == "away" and self.session is not None:
            chunks.append(self._chunk)

    monkeypatch.setattr(Connection, "flush", flushed)
    monkeypatch.setattr(Connection, "data_received", handled)
    with running(Limits(queue_bytes=50_000), tmp_path if stored else None) as (_, client):
        away = client("away", clean=False)
        away.subscribe(("away", 1))
        away.disconnect()
        client().publish_many([wire.publish("away", b"%d" % n, 1, n + 1) for n in range(3000)])

        found = client("away", clean=False).messages(3000)

    assert [int(m.payload) for m in found] == list(range(3000))
    assert 100 < max(portions) <= 302  # with CONNACK
    assert chunks[-1] == 8 * 1024  # where acknowledgements come, less is read at once


def test_a_socket_that_has_ended_is_not_kept(until: Callable[..., None]) -> None:
    def kept() -> int:
        return sum(isinstance(each, asyncio.Transport) for each in gc.get_objects())

    with running() as (_, client):
        before = kept()
        for _ in range(20):
            client().disconnect()

        until(lambda: gc.collect() >= 0 and kept() <= before, 3.0, "the end of them")  # less than they have to end
