"""Embedded broker against Mosquitto: one load generator, the brokers interleaved in one run.

    python benchmarks/broker.py [--repeats 3] [--messages 50000] [--case NAME ...]

Packets are encoded beforehand and written to plain sockets, so that the broker and not a client library is measured.
Printed per case: messages per second (median), CPU of the broker per delivered message, both as ratios to Mosquitto.
Wall-clock rates on a busy machine vary by half; the CPU column hardly does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "broker")]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from ether.testing.broker_contract import (  # noqa: E402  # the path first
    BrokerProcess,
    Client,
    EmbeddedProcess,
    MosquittoProcess,
    wire,
)


class Memory(EmbeddedProcess):
    """The embedded broker, keeping nothing."""

    ARGUMENTS = ["--no-persist"]  # noqa: RUF012  # as in the class it comes from


class Subscriber(threading.Thread):
    """Takes PUBLISH packets as fast as it can, acknowledging QoS 1 and 2, until it has seen all of them."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.left = number

    def run(self) -> None:
        """Parse no more than needed: the first byte, the length, and where the packet identifier is."""
        receive, send = self.client.socket.recv, self.client.socket.sendall
        buffer = b""
        while self.left > 0:
            buffer += receive(1 << 18)
            at, end, answers = 0, len(buffer), []
            while end - at > 4:
                first, size, shift, body = buffer[at], 0, 0, at + 1
                while True:
                    byte = buffer[body]
                    body += 1
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                if body + size > end:
                    break
                if first >> 4 == 3:
                    self.left -= 1
                    if first & 6:
                        identifier = body + 2 + (buffer[body] << 8 | buffer[body + 1])
                        kind = b"\x40\x02" if first & 2 else b"\x50\x02"
                        answers.append(kind + buffer[identifier : identifier + 2])
                elif first >> 4 == 6:
                    answers.append(b"\x70\x02" + buffer[body : body + 2])
                at = body + size
            buffer = buffer[at:]
            if answers:
                send(b"".join(answers))


class Result(NamedTuple):
    """One measurement."""

    rate: float
    """Messages delivered per second."""
    cpu_us: float
    """Broker CPU per delivered message."""


def cpu_s(broker: BrokerProcess) -> float:
    """User and system time the broker has used (Linux)."""
    assert broker.process is not None
    fields = Path(f"/proc/{broker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def take_acknowledgements(client: Client, qos: int, number: int) -> None:
    """Read PUBACKs, or answer PUBRECs and read PUBCOMPs, until `number` publishes are done."""
    done = 0
    while done < number:
        packet = client.receive()
        if packet.kind == 5:
            client.send(b"\x62\x02" + packet.body)
        else:
            done += 1


def flow(
    broker: BrokerProcess, *, qos: int, size: int, number: int, publishers: int = 1, subscribers: int = 1,
    persistent: bool = False,
) -> Result:  # fmt: skip
    """Publishers write `number` messages back to back, at most 1,000 unacknowledged each; subscribers take them all."""
    takers = []
    for index in range(subscribers):
        client = Client(broker.host, broker.port)
        client.connect(f"taker-{index}", clean=not persistent)
        client.subscribe(("bench/#", qos))
        takers.append(Subscriber(client, number))
    senders = [Client(broker.host, broker.port) for _ in range(publishers)]
    for sender in senders:
        sender.connect()
    share = number // publishers
    batches = [
        b"".join(
            wire.publish("bench/topic", bytes(size), qos, n % 60000 + 1) for n in range(start, min(start + 1000, share))
        )
        for start in range(0, share, 1000)
    ]

    def send(client: Client) -> None:
        for index, batch in enumerate(batches):
            client.send(batch)
            if qos:
                take_acknowledgements(client, qos, min(1000, share - index * 1000))

    threads = [threading.Thread(target=send, args=(sender,), daemon=True) for sender in senders]
    cpu, started = cpu_s(broker), time.perf_counter()
    for thread in (*takers, *threads):
        thread.start()
    for thread in (*takers, *threads):
        thread.join(120)
        assert not thread.is_alive(), "messages are missing"
    elapsed, cpu = time.perf_counter() - started, cpu_s(broker) - cpu
    for client in (*senders, *(taker.client for taker in takers)):
        client.disconnect()
    if persistent:  # so that the next run starts afresh
        forget = Client(broker.host, broker.port)
        forget.connect("taker-0")
        forget.disconnect()
    delivered = number * subscribers
    return Result(delivered / elapsed, cpu / delivered * 1e6)


def latency(broker: BrokerProcess, number: int) -> Result:
    """`number` messages at 200 a second, QoS 1; rate = 1 / p50, and p99 in place of the CPU."""
    taker, sender = Client(broker.host, broker.port), Client(broker.host, broker.port)
    taker.connect()
    taker.subscribe(("bench/latency", 1))
    sender.connect()
    took = []
    for n in range(number):
        started = time.perf_counter()
        sender.send(wire.publish("bench/latency", bytes(100), 1, n + 1))
        packet = taker.expect(3)
        took.append(time.perf_counter() - started)
        taker.send(wire.acknowledge(0x40, packet.packet_id))
        sender.expect(4)
        time.sleep(max(0.0, 0.005 - (time.perf_counter() - started)))
    taker.disconnect()
    sender.disconnect()
    took.sort()
    return Result(1 / took[number // 2], took[number * 99 // 100] * 1e6)


def connects(broker: BrokerProcess, number: int) -> Result:
    """Connect and disconnect, one after the other."""
    cpu, started = cpu_s(broker), time.perf_counter()
    for _ in range(number):
        client = Client(broker.host, broker.port)
        client.connect()
        client.disconnect()
    elapsed = time.perf_counter() - started
    return Result(number / elapsed, (cpu_s(broker) - cpu) / number * 1e6)


def cases(messages: int) -> dict[str, Callable[[BrokerProcess], Result]]:
    """Name → what to run."""
    few, tiny = messages // 5, max(20, messages // 500)
    return {
        "QoS 0, 100 B": lambda b: flow(b, qos=0, size=100, number=messages),
        "QoS 1, 100 B": lambda b: flow(b, qos=1, size=100, number=messages),
        "QoS 2, 100 B": lambda b: flow(b, qos=2, size=100, number=few),
        "QoS 1, 100 B, stored session": lambda b: flow(b, qos=1, size=100, number=messages, persistent=True),
        "QoS 1, 10 KB": lambda b: flow(b, qos=1, size=10_000, number=few),
        "QoS 1, 1 MB": lambda b: flow(b, qos=1, size=1_000_000, number=tiny),
        "fan-in 20 to 1, QoS 1": lambda b: flow(b, qos=1, size=100, number=few, publishers=20),
        "fan-out 1 to 20, QoS 0": lambda b: flow(b, qos=0, size=100, number=few // 5, subscribers=20),
        "connect and disconnect": lambda b: connects(b, max(100, messages // 100)),
        "200 a second, QoS 1 (1/p50, p99 us)": lambda b: latency(b, max(200, messages // 100)),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--case", action="append", help="only cases that contain this")
    arguments = parser.parse_args()
    brokers: dict[str, type[BrokerProcess]] = {
        "mosquitto": MosquittoProcess, "embedded": EmbeddedProcess, "embedded --no-persist": Memory,
    }  # fmt: skip
    if MosquittoProcess.missing():
        print(MosquittoProcess.missing(), file=sys.stderr)
        del brokers["mosquitto"]
    print(f"{'case':38}" + "".join(f"{name:>34}" for name in brokers))
    for name, run in cases(arguments.messages).items():
        if arguments.case and not any(part in name for part in arguments.case):
            continue
        results: dict[str, list[Result]] = {broker: [] for broker in brokers}
        for _ in range(arguments.repeats):
            for broker_name, kind in brokers.items():
                with tempfile.TemporaryDirectory() as folder:
                    broker = kind(Path(folder))
                    broker.start()
                    try:
                        results[broker_name].append(run(broker))
                    finally:
                        broker.kill()
        rates = {broker: statistics.median(r.rate for r in found) for broker, found in results.items()}
        cpus = {broker: statistics.median(r.cpu_us for r in found) for broker, found in results.items()}
        base = rates.get("mosquitto", 0.0)
        columns = [f"{rates[b]:>12,.0f}/s {rates[b] / base if base else 0:>5.2f}x {cpus[b]:>9.1f} us" for b in brokers]
        print(f"{name:38}" + "".join(f"{column:>34}" for column in columns), flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as exc:
        sys.exit(str(exc))
