"""`python -m ether_broker` as whoever starts it sees it."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ether import brokers, session_broker
from ether.config import Config
from ether.errors import BrokerError
from ether.testing.broker_contract import (
    TIMEOUT_S,
    Client,
    Closed,
    EmbeddedProcess,
    wire,
)

COMMAND = [sys.executable, "-m", "ether_broker"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedProcess]:
    process = EmbeddedProcess(tmp_path)
    process.start()
    yield process
    if process.process is not None:
        process.kill()


def test_prints_one_line_and_stops_in_order_on_a_signal() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            client = Client("127.0.0.1", int(line.rpartition(":")[2]))
            client.connect()
            asked = time.monotonic()
            process.send_signal(number)
            assert client.wait_closed() == []
            rest = process.stdout.read()
            client.socket.close()

        assert line.startswith("listening mqtt://127.0.0.1:") and rest == ""
        assert process.returncode == 0
        assert time.monotonic() - asked < 2


@pytest.mark.parametrize("option", ["--listen", "--local"])
def test_busy_port_is_one_line_that_names_it_and_exit_code_4(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run([*COMMAND, option, address], capture_output=True, text=True, timeout=TIMEOUT_S)

    assert (result.returncode, result.stdout) == (4, "")
    assert result.stderr.splitlines() == [f"ether_broker: cannot listen on {address}: the address is in use already"]


def test_folder_in_use_is_one_line_and_exit_code_5(broker: EmbeddedProcess) -> None:
    folder = str(broker.folder / "data")

    result = subprocess.run([*COMMAND, "--data", folder], capture_output=True, text=True, timeout=TIMEOUT_S)

    assert (result.returncode, result.stdout) == (5, "")
    assert result.stderr.splitlines() == [f"ether_broker: {folder} is in use by another broker"]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", ":1", "127.0.0.1:"])
def test_bad_address_is_a_usage_error(address: str) -> None:
    result = subprocess.run([*COMMAND, "--listen", address], capture_output=True, text=True, timeout=TIMEOUT_S)

    assert result.returncode == 2
    assert "is not HOST:PORT" in result.stderr


def test_limits_are_arguments(tmp_path: Path, until: Callable[..., None]) -> None:
    class Small(EmbeddedProcess):
        ARGUMENTS = ["--max-packet", "10kB", "--max-connections", "2", "--session-expiry", "1", "--max-queue", "1MiB"]  # noqa: RUF012

    broker = Small(tmp_path)
    broker.start()
    large, away = (Client(broker.host, broker.port) for _ in range(2))
    large.connect()
    away.connect("away", clean=False)
    third = Client(broker.host, broker.port)
    with pytest.raises((Closed, ConnectionError)):
        third.connect()
    third.socket.close()
    away.disconnect()
    large.publish("a", bytes(9000))
    large.send(wire.publish("a", bytes(11_000)))
    assert large.wait_closed() == []
    until(lambda: "away: session expired" in (broker.folder / "broker.err").read_text())
    broker.kill()
    large.socket.close()


@pytest.mark.parametrize(
    ("option", "text"), [("--max-packet", "5TB"), ("--max-queue", "0"), ("--session-expiry", "-1")]
)
def test_bad_limit_is_a_usage_error(option: str, text: str) -> None:
    result = subprocess.run([*COMMAND, f"{option}={text}"], capture_output=True, text=True, timeout=TIMEOUT_S)

    assert result.returncode == 2
    assert f"{option}: {text!r} is no" in result.stderr


def test_limits_of_a_session_reach_the_broker_it_starts(broker_kind: str, tmp_path: Path) -> None:
    config = Config.load({"broker": {"limits": {"packet": "10kB", "connections": 2, "session_expiry": "1h"}}})
    limits = session_broker._limits(config)

    with brokers.choose(broker_kind, folder=str(tmp_path), limits=limits) as running:
        port = int(running.url.rpartition(":")[2])
        first, second = (Client("127.0.0.1", port) for _ in range(2))
        for each in (first, second):
            each.connect()
        third = Client("127.0.0.1", port)
        with pytest.raises((Closed, ConnectionError)):
            third.connect()
        third.socket.close()
        first.publish("a", bytes(9000))
        first.send(wire.publish("a", bytes(11_000)))
        assert first.wait_closed() == []
        second.disconnect()
        first.socket.close()


def test_a_queue_limit_that_would_lose_messages_is_refused() -> None:
    with (
        pytest.raises(BrokerError, match=r"broker\.limits\.queue: Mosquitto would drop"),
        brokers.choose("mosquitto", limits=brokers.Limits(queue_bytes=1 << 20)),
    ):
        pass


@pytest.mark.parametrize("clients", [0, 1])
def test_orphan_stops(clients: int) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*COMMAND, "--parent-pipe"], text=True, **pipes) as process:  # type: ignore[call-overload]
        port = int(process.stdout.readline().rpartition(":")[2])
        connected = [Client("127.0.0.1", port) for _ in range(clients)]
        for each in connected:
            each.connect()

        process.stdin.close()
        if connected:
            assert connected[0].drain() == [], "clients may finish what they do"
            connected[0].disconnect()
        process.wait(2)

    assert process.returncode == 0


def test_does_not_import_ether() -> None:
    code = "import sys, ether_broker.__main__, ether_broker.broker; print('ether' in sys.modules)"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT_S)

    assert result.stdout == "False\n"


def test_unfinished_packets_are_not_delivered_when_it_stops(broker: EmbeddedProcess) -> None:
    subscriber, publisher = (Client(broker.host, broker.port) for _ in range(2))
    for each in (subscriber, publisher):
        each.connect()
    subscriber.subscribe(("a", 1))
    publisher.publish("a", bytes(3_000_000))
    publisher.send(wire.publish("a", bytes(3_000_000))[:2_000_000])

    assert broker.stop() == 0

    found = subscriber.wait_closed()
    assert [len(m.payload) for m in found] == [3_000_000]
    assert bytes(subscriber._buffer) == b""
    for each in (subscriber, publisher):
        each.socket.close()


def test_kill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Six times: publish until killed, start again; in the end every acknowledged number must be there, in order."""
    broker, chance = EmbeddedProcess(tmp_path), random.Random(7)
    acknowledged: list[int] = []
    number = 0
    broker.start()
    recorder = Client(broker.host, broker.port)
    recorder.connect("recorder", clean=False)
    recorder.subscribe(("data", 1))
    recorder.disconnect()
    for _ in range(6):
        publisher = Client(broker.host, broker.port)
        publisher.connect()
        end = time.monotonic() + chance.uniform(0.0, 0.05)
        try:
            while True:
                batch = list(range(number, number + 50))
                number += 50
                publisher.send(*[wire.publish("data", b"%d" % n, 1, n % 65535 + 1) for n in batch])
                if time.monotonic() > end:
                    broker.process.kill()  # type: ignore[union-attr]  # it runs
                for n in batch:
                    assert publisher.expect(4).packet_id == n % 65535 + 1
                    acknowledged.append(n)
        except (Closed, ConnectionError):
            publisher.socket.close()
        broker.kill()
        broker.start()

    recorder = Client(broker.host, broker.port)
    recorder.connect("recorder", clean=False)
    session_end = Client(broker.host, broker.port)
    session_end.connect()
    session_end.publish("data", b"-1")
    found: list[int] = []
    while not found or found[-1] != -1:
        found += [int(m.payload) for m in recorder.messages(1)]

    assert len(acknowledged) > 100
    assert found[:-1] == sorted(set(found[:-1]))
    assert set(acknowledged) <= set(found)
    for each in (recorder, session_end):
        each.socket.close()
    broker.kill()
