"""The embedded broker under damaged and hostile input: neither it nor anybody else comes to harm.

A short set by default; `make fuzz` sends a million packets. ETHER_TEST_FUZZ_PACKETS and ETHER_TEST_FUZZ_SEED say how
many, and which.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from damaged import damaged

from ether.testing.broker_contract import TIMEOUT_S, Client, EmbeddedProcess, wire

PACKETS = int(os.environ.get("ETHER_TEST_FUZZ_PACKETS", "20000"))
SEED = int(os.environ.get("ETHER_TEST_FUZZ_SEED", "1"))
HOSTILE_FILTERS = {
    "a plus on every level": ["/".join("+" * 199) + "/#"],
    "nested repetition": ["(a+)+$", "/".join(["(.*)*"] * 150)],
    "every mix of a plus and a name": [
        "/".join("+a"[number >> level & 1] for level in range(11)) + "/+" * 150 for number in range(2048)
    ],
    "a long level": ["a" * 65_000],
}


class Short(EmbeddedProcess):
    """One whose sessions end soon, so that what still grows at the end is a leak."""

    ARGUMENTS = ["--session-expiry", "1"]  # noqa: RUF012


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedProcess]:
    process = Short(tmp_path)
    process.start()
    yield process
    if process.process is not None:
        process.kill()


@pytest.fixture
def client(broker: EmbeddedProcess) -> Iterator[Callable[[], Client]]:
    """Makes sockets to the broker, closed at the end."""
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(broker.host, broker.port))
        return clients[-1]

    yield make
    for each in clients:
        each.socket.close()


@pytest.mark.timeout(60 + PACKETS // 200)
def test_damaged_streams_do_no_harm(
    broker: EmbeddedProcess, client: Callable[[], Client], until: Callable[..., None]
) -> None:
    """Not to the broker, which neither ends, hangs nor grows, and not to a bystander, who is served all the time."""
    chance = random.Random(SEED)
    bystander = client()
    bystander.connect("bystander")
    bystander.subscribe(("by/stander", 1))
    assert broker.process is not None
    process = psutil.Process(broker.process.pid)
    sent, rounds, worst_s, sizes = 0, 0, 0.0, []
    before = process.num_fds(), process.num_threads()
    while sent < PACKETS:
        rounds += 1
        stream, packets = damaged(chance)
        sent += packets
        attacker = Client(broker.host, broker.port)
        with contextlib.suppress(OSError):  # the broker closed first, as it should
            attacker.send(stream)
            if chance.random() < 0.5:
                attacker.abort()
            else:
                attacker.socket.shutdown(socket.SHUT_WR)
                attacker.wait_closed()
        attacker.socket.close()
        if rounds % 20 == 0:
            started = time.monotonic()
            bystander.send(wire.publish("by/stander", b"%d" % rounds, 1, 1))
            packet = sorted((bystander.receive(), bystander.receive()))[0]
            assert packet.payload == b"%d" % rounds
            bystander.send(wire.acknowledge(0x40, packet.packet_id))
            worst_s = max(worst_s, time.monotonic() - started)
        if rounds % 200 == 0:
            sizes.append(process.memory_info().rss)

    # When the sessions have expired, the bystander's is the only one, and nothing of the others is left.
    bystander.subscribe(("$SYS/broker/clients/total", 0))
    assert bystander.receive().topic == "$SYS/broker/clients/total"

    def alone() -> bool:
        bystander.send(wire.unsubscribe("$SYS/broker/clients/total"))
        while bystander.receive().kind != 11:  # a count may be on its way
            pass
        bystander.subscribe(("$SYS/broker/clients/total", 0))
        return bystander.receive().payload == b"1"

    until(alone, TIMEOUT_S)
    print(f"{sent} packets in {rounds} connections, seed {SEED}; RSS {sizes[0] >> 20} to {sizes[-1] >> 20} MiB; "
          f"slowest answer to a bystander {worst_s * 1000:.0f} ms")  # fmt: skip
    assert process.num_fds() <= before[0] + 2, "sockets leak"  # a segment of the log or two
    assert process.num_threads() <= before[1] + 8, "threads leak"  # those that sync the log
    assert sizes[-1] - sizes[0] < 30_000_000
    log = (broker.folder / "broker.err").read_text()
    assert "Traceback" not in log and "ERROR" not in log, log[-3000:]


@pytest.mark.parametrize("name", HOSTILE_FILTERS)
def test_hostile_filters_keep_nobody_waiting(name: str, client: Callable[[], Client]) -> None:
    attacker, bystander = client(), client()
    attacker.connect()
    bystander.connect()

    started = time.monotonic()
    attacker.send(*(wire.subscribe((each, 0)) for each in HOSTILE_FILTERS[name]))
    attacker.send(*(wire.publish("/".join("a" * 161) + f"/{n}") for n in range(5)), wire.publish("a" * 65_000))
    bystander.publish("by/stander")

    assert time.monotonic() - started < TIMEOUT_S / 2


@pytest.mark.parametrize("make", [wire.publish, lambda topic: wire.subscribe((topic, 0)), wire.unsubscribe])
def test_topic_of_10_000_levels_is_refused_at_once(make: Callable[[str], bytes], client: Callable[[], Client]) -> None:
    attacker, bystander = client(), client()
    attacker.connect()
    bystander.connect()

    attacker.send(make("/" * 10_000))

    assert [packet.kind for packet in attacker.wait_closed()] == []
    assert bystander.drain() == []


def test_client_that_closes_its_half_is_closed(client: Callable[[], Client]) -> None:
    watcher, half = client(), client()
    watcher.connect()
    watcher.subscribe(("will", 0))
    half.connect("half", will=("will", b"gone", 0, False))

    half.socket.shutdown(socket.SHUT_WR)

    assert half.wait_closed() == []
    assert watcher.messages(1)[0].payload == b"gone"


def test_hundreds_of_silent_sockets_keep_nobody_out(client: Callable[[], Client]) -> None:
    silent = [client() for _ in range(500)]
    for each in silent[::2]:
        each.send(wire.connect("slow")[:5])

    late = client()

    assert not late.connect()
    late.publish("still/served")


def test_packet_that_never_ends_costs_what_was_sent_of_it(
    broker: EmbeddedProcess, client: Callable[[], Client]
) -> None:
    assert broker.process is not None
    process = psutil.Process(broker.process.pid)
    other = client()
    other.connect()
    before = process.memory_info().rss
    attackers = [client() for _ in range(50)]
    for each in attackers:
        each.connect()
        each.send(b"\x30\x80\x80\x80\x20", b"\0\x01a")  # 64 MiB are announced, and three bytes come

    assert other.drain() == []

    assert process.memory_info().rss - before < 20_000_000
