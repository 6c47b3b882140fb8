"""The embedded broker against Mosquitto and stock amqtt: one load generator, the brokers interleaved in one run.

    python benchmarks/broker.py [--repeats 3] [--messages 50000] [--case NAME ...] [--broker NAME ...]

Raw cases write packets encoded beforehand to plain sockets, so that the broker and not a client library is measured;
paho cases run every client in a process of its own. Printed per case and figure: the median, its ratio to Mosquitto,
and for each goal whether it was met, or by how much not. Rates on a busy machine vary by half; CPU of the broker per
delivered message hardly does. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "broker")]
os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])

from paho.mqtt.client import Client as Paho  # noqa: E402  # the path first
from paho.mqtt.enums import CallbackAPIVersion  # noqa: E402

from ether.testing.broker_contract import (  # noqa: E402
    PINGREQ,
    BrokerProcess,
    Client,
    Closed,
    EmbeddedProcess,
    MosquittoProcess,
    wire,
)

WAIT_S = 120.0
Figures = dict[str, float]


# -- brokers --


class Memory(EmbeddedProcess):
    """The embedded broker, keeping nothing."""

    ARGUMENTS = ["--no-persist"]  # noqa: RUF012  # as in the class it comes from


class Stock(BrokerProcess):
    """amqtt as its own command starts it, with its default plug-ins but for the two that log."""

    CONFIGURATION = """
        listeners: {{default: {{type: tcp, bind: "127.0.0.1:{port}"}}}}
        plugins:
          amqtt.plugins.authentication.AnonymousAuthPlugin: {{allow_anonymous: true}}
          amqtt.plugins.sys.broker.BrokerSysPlugin: {{sys_interval: 20}}
    """

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind((self.host, 0))
            self.port = probe.getsockname()[1]
        configuration = self.folder / "amqtt.yaml"
        configuration.write_text(self.CONFIGURATION.format(port=self.port))
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(configuration)]
        with self._log() as log:
            self.process = subprocess.Popen(command, stderr=log, text=True)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                Client(self.host, self.port).socket.close()
                return
            assert time.monotonic() < deadline and self.process.poll() is None, "amqtt does not start"
            time.sleep(0.05)


BROKERS: dict[str, type[BrokerProcess]] = {
    "mosquitto": MosquittoProcess,
    "embedded": EmbeddedProcess,
    "in memory": Memory,
    "amqtt": Stock,
}
SLOW = {"amqtt": 25}
"""Fewer messages, by this factor, for who needs a millisecond for each."""


def process_of(broker: BrokerProcess) -> Path:
    assert broker.process is not None
    return Path(f"/proc/{broker.process.pid}")


def cpu_s(broker: BrokerProcess) -> float:
    """User and system time the broker has used."""
    assert broker.process is not None
    # The clock of another process, as clock_getcpuclockid(3) makes it; /proc counts in steps of 10 ms.
    return time.clock_gettime((~broker.process.pid << 3) | 2)


def memory_mb(broker: BrokerProcess, what: str) -> float:
    """`VmRSS`, or `VmHWM` for the most it ever had."""
    status = dict(line.split(":", 1) for line in (process_of(broker) / "status").read_text().splitlines())
    return int(status[what].split()[0]) / 1000


# -- raw load --


class Subscriber(threading.Thread):
    """Takes `number` PUBLISH packets of one size as fast as it can, acknowledging QoS 1.

    All packets of a run are equally long, so slices with a stride find every identifier without a loop in Python:
    the generator must not be what is measured.
    """

    def __init__(self, client: Client, number: int, packet: bytes, identifier_at: int) -> None:
        super().__init__(daemon=True)
        self.client, self.left = client, number
        self.size, self.at = len(packet), identifier_at

    def run(self) -> None:
        receive, send, size, at = self.client.socket.recv, self.client.socket.sendall, self.size, self.at
        buffer = b""
        while self.left > 0:
            data = receive(1 << 18)
            if not data:
                return
            buffer = buffer + data if buffer else data
            whole = len(buffer) // size
            if whole == 0:
                continue
            end = whole * size
            self.left -= whole
            if at:
                answer = bytearray(b"\x40\x02\0\0" * whole)
                answer[2::4] = buffer[at:end:size]
                answer[3::4] = buffer[at + 1 : end : size]
                send(answer)
            buffer = buffer[end:]


class CarefulSubscriber(Subscriber):
    """The same for QoS 2, where PUBREL packets come in between."""

    def run(self) -> None:
        receive, send = self.client.socket.recv, self.client.socket.sendall
        buffer = b""
        while self.left > 0:
            buffer += receive(1 << 18)
            position, end, answers = 0, len(buffer), []
            while end - position >= 4:
                if buffer[position] == 0x62:
                    answers.append(b"\x70\x02" + buffer[position + 2 : position + 4])
                    position += 4
                    continue
                if end - position < self.size:
                    break
                identifier = position + self.at
                answers.append(b"\x50\x02" + buffer[identifier : identifier + 2])
                position += self.size
                self.left -= 1
            buffer = buffer[position:]
            if answers:
                send(b"".join(answers))


def take(client: Client, size: int) -> None:
    """Take `size` bytes of acknowledgements."""
    while size:
        data = client.socket.recv(size)
        if not data:
            raise Closed
        size -= len(data)


def flow(
    broker: BrokerProcess, number: int, *, qos: int, size: int, publishers: int = 1, subscribers: int = 1,
    persistent: bool = False,
) -> Figures:  # fmt: skip
    """Publishers write back to back, at most 1,000 unacknowledged each; subscribers take all."""
    share = number // publishers
    number = share * publishers
    example = wire.publish("bench/topic", bytes(size), qos)
    identifier_at = len(example) - size - 2 if qos else 0
    takers = []
    for index in range(subscribers):
        client = Client(broker.host, broker.port)
        client.connect(f"taker-{index}", clean=not persistent)
        client.subscribe(("bench/#", qos))
        kind = CarefulSubscriber if qos == 2 else Subscriber
        takers.append(kind(client, number, example, identifier_at))
    senders = [Client(broker.host, broker.port) for _ in range(publishers)]
    for sender in senders:
        sender.connect()
    batches = []
    for start in range(0, share, 1000):
        ids = range(start + 1, min(start + 1000, share) + 1)
        publishes = b"".join(wire.publish("bench/topic", bytes(size), qos, n) for n in ids)
        releases = b"".join(b"\x62\x02" + n.to_bytes(2, "big") for n in ids)
        batches.append((publishes, releases))

    def send(client: Client) -> None:
        for publishes, releases in batches:
            client.send(publishes)
            if qos:
                take(client, len(releases))
            if qos == 2:
                client.send(releases)
                take(client, len(releases))

    threads = [threading.Thread(target=send, args=(sender,), daemon=True) for sender in senders]
    cpu, started = cpu_s(broker), time.perf_counter()
    for thread in (*takers, *threads):
        thread.start()
    for thread in (*takers, *threads):
        thread.join(WAIT_S)
        assert not thread.is_alive(), "messages are missing"
    elapsed, cpu = time.perf_counter() - started, cpu_s(broker) - cpu
    delivered = number * subscribers
    return {"messages/s": delivered / elapsed, "CPU us": cpu / delivered * 1e6}


def latency(broker: BrokerProcess, number: int) -> Figures:
    """One way, QoS 1, a message every 5 ms."""
    taker, sender = Client(broker.host, broker.port), Client(broker.host, broker.port)
    taker.connect()
    taker.subscribe(("bench/latency", 1))
    sender.connect()
    took = []
    for n in range(number):
        started = time.perf_counter()
        sender.send(wire.publish("bench/latency", bytes(100), 1, n + 1))
        packet = taker.expect(3)
        took.append((time.perf_counter() - started) * 1000)
        taker.send(wire.acknowledge(0x40, packet.packet_id))
        sender.expect(4)
        time.sleep(max(0.0, 0.005 - (time.perf_counter() - started)))
    took.sort()
    return {"p50 ms": took[number // 2], "p99 ms": took[number * 99 // 100]}


def connects(broker: BrokerProcess, number: int, together: int) -> Figures:
    """Connect and disconnect, so many `together`: of one alone, most of the time is the client's and the kernel's."""
    cpu, started = cpu_s(broker), time.perf_counter()
    for _ in range(number // together):
        clients = [Client(broker.host, broker.port) for _ in range(together)]
        for client in clients:
            client.send(wire.connect(""))
        for client in clients:
            client.expect(2)
            client.disconnect()
    elapsed = time.perf_counter() - started
    return {"connects/s": number / elapsed, "CPU us": (cpu_s(broker) - cpu) / number * 1e6}


def idle(broker: BrokerProcess, number: int) -> Figures:
    """What `number` clients cost that have one subscription each and do nothing."""
    Client(broker.host, broker.port).connect()
    before = memory_mb(broker, "VmRSS")
    clients = [Client(broker.host, broker.port) for _ in range(number)]
    for index, client in enumerate(clients):
        client.connect(f"idle-{index}")
        client.subscribe((f"idle/{index}", 0))
    found = {"KB each": (memory_mb(broker, "VmRSS") - before) / number * 1000}
    for client in clients:
        client.socket.close()
    return found


def silent(broker: BrokerProcess, number: int) -> Figures:
    """Bytes that a client is sent which subscribed nothing, while others have, on a broker with retained messages."""
    publisher, other, client = (Client(broker.host, broker.port) for _ in range(3))
    publisher.connect()
    for n in range(number):
        publisher.send(wire.publish(f"bench/state/{n}", b"x" * 20, 1, n + 1, retain=True))
        publisher.expect(4)
    other.connect("other")
    other.subscribe(("bench/#", 0))
    client.send(wire.connect("silent"), PINGREQ)
    received = b""
    client.socket.settimeout(0.5)  # for who sends it later
    with contextlib.suppress(TimeoutError):
        while data := client.socket.recv(1 << 16):
            received += data
    return {"bytes": len(received) - 2}  # less PINGRESP


# -- floods --


class Bystander(threading.Thread):
    """A client that has nothing to do with the flood: sends itself a message fifty times a second."""

    def __init__(self, broker: BrokerProcess) -> None:
        super().__init__(daemon=True)
        self.client = Client(broker.host, broker.port)
        self.client.connect("bystander")
        self.client.subscribe(("by/stander", 0))
        self.took_ms: list[float] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.wait(0.02):
            started = time.perf_counter()
            self.client.send(wire.publish("by/stander"))
            try:
                self.client.expect(3)
            except (Closed, TimeoutError):
                self.took_ms.append(1e6)
                return
            self.took_ms.append((time.perf_counter() - started) * 1000)

    def p99_ms(self) -> float:
        self.enough.set()
        self.join(WAIT_S)
        return sorted(self.took_ms)[len(self.took_ms) * 99 // 100]


def flood(broker: BrokerProcess, number: int, *, size: int, recorder: str) -> Figures:
    """Publish at QoS 1 without waiting for anything; `recorder` reads slowly, stalls for 3 s, or is absent."""
    taker, publisher = Client(broker.host, broker.port), Client(broker.host, broker.port)
    taker.connect("recorder", clean=False)
    taker.subscribe(("flood", 1))
    publisher.connect()
    publisher.socket.settimeout(WAIT_S)
    if recorder == "absent":
        taker.disconnect()
    bystander = Bystander(broker)
    bystander.start()

    def send() -> None:
        for start in range(0, number, 100):
            numbers = range(start, min(start + 100, number))
            publisher.send(*(wire.publish("flood", b"%06d" % n + bytes(size - 6), 1, n % 65535 + 1) for n in numbers))

    def confirm() -> None:
        with contextlib.suppress(Closed, TimeoutError):
            take(publisher, 4 * number)

    threads = [threading.Thread(target=work, daemon=True) for work in (send, confirm)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    if recorder == "stalled":
        time.sleep(3)
    elif recorder == "absent":
        for thread in threads:
            thread.join(WAIT_S)
        taker = Client(broker.host, broker.port)
        taker.connect("recorder", clean=False)
    seen: set[int] = set()
    with contextlib.suppress(Closed, TimeoutError):
        while len(seen) < number:
            batch = min(100, number - len(seen))
            seen.update(int(message.payload[:6]) for message in taker.messages(batch))
            if recorder == "slow":
                time.sleep(0.01)
    elapsed = time.perf_counter() - started
    return {
        "lost": number - len(seen),
        "peak MB": memory_mb(broker, "VmHWM"),
        "others' p99 ms": bystander.p99_ms(),
        "messages/s": number / elapsed,
    }


# -- paho --

fork = multiprocessing.get_context("fork")


def paho(name: str) -> Paho:
    return Paho(CallbackAPIVersion.VERSION2, client_id=name)


def paho_subscriber(port: int, name: str, qos: int, number: int, ready: Any) -> None:
    client, left = paho(name), number

    def on_message(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            client.disconnect()

    client.on_connect = lambda *_: client.subscribe("bench/#", qos)
    client.on_subscribe = lambda *_: ready.release()
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.loop_forever()


def paho_publisher(port: int, name: str, qos: int, number: int, ready: Any, go: Any) -> None:
    client = paho(name)
    client.on_connect = lambda *_: ready.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    go.wait()
    for sent in [client.publish("bench/topic", bytes(100), qos) for _ in range(number)]:
        sent.wait_for_publish(WAIT_S)
    client.disconnect()
    client.loop_stop()


def paho_flow(broker: BrokerProcess, number: int, *, qos: int, publishers: int = 1, subscribers: int = 1) -> Figures:
    """The same with a client library, as users have it: paho's defaults, 100 bytes."""
    ready, go, share = fork.Semaphore(0), fork.Event(), number // publishers
    number = share * publishers
    takers = [
        fork.Process(target=paho_subscriber, args=(broker.port, f"taker-{n}", qos, number, ready))
        for n in range(subscribers)
    ]
    senders = [
        fork.Process(target=paho_publisher, args=(broker.port, f"sender-{n}", qos, share, ready, go))
        for n in range(publishers)
    ]
    for process in (*takers, *senders):
        process.start()
    try:
        for _ in (*takers, *senders):
            assert ready.acquire(timeout=WAIT_S), "a client is never served"
        cpu, started = cpu_s(broker), time.perf_counter()
        go.set()
        for process in takers:
            process.join(WAIT_S)
            assert process.exitcode == 0, "messages are missing"
        elapsed, cpu = time.perf_counter() - started, cpu_s(broker) - cpu
    finally:
        for process in (*takers, *senders):
            process.join(5)
            process.kill()
            process.join()
    delivered = number * subscribers
    return {"messages/s": delivered / elapsed, "CPU us": cpu / delivered * 1e6}


# -- cases and goals --


class Goal(NamedTuple):
    """A figure of `broker` must be at least, or at most, `bound`: times that of `peer`, or by itself."""

    broker: str
    figure: str
    kind: str
    bound: float
    peer: str = ""


class Case(NamedTuple):
    """What to run with how many messages, and what should come out."""

    number: int
    run: Callable[[BrokerProcess, int], Figures]
    goals: list[Goal]


def least(broker: str, figure: str, bound: float, peer: str = "") -> Goal:
    return Goal(broker, figure, "at least", bound, peer)


def most(broker: str, figure: str, bound: float, peer: str = "") -> Goal:
    return Goal(broker, figure, "at most", bound, peer)


def cases(messages: int) -> dict[str, Case]:
    rate, cpu = "messages/s", "CPU us"

    def raw(number: int, goals: list[Goal], **options: Any) -> Case:
        return Case(number, lambda broker, n: flow(broker, n, **options), goals)

    def client(number: int, **options: Any) -> Case:
        goals = [least("embedded", rate, 0.9, "mosquitto"), most("embedded", cpu, 1.0, "mosquitto")]
        return Case(number, lambda broker, n: paho_flow(broker, n, **options), goals)

    def filled(number: int, size: int, recorder: str) -> Case:
        goals = [
            most("embedded", "lost", 0),
            most("embedded", "peak MB", 150),
            most("embedded", "others' p99 ms", 2, "mosquitto"),
        ]
        return Case(number, lambda broker, n: flood(broker, n, size=size, recorder=recorder), goals)

    def fast(factor: float) -> list[Goal]:
        return [
            least("in memory", rate, factor, "mosquitto"),
            least("in memory", rate, 30, "amqtt"),
            least("embedded", rate, 1.0, "mosquitto"),
        ]

    few = messages // 5
    return {
        "QoS 0, 100 B": raw(messages, fast(1.3), qos=0, size=100),
        "QoS 1, 100 B": raw(messages, fast(2.5), qos=1, size=100),
        "QoS 2, 100 B": raw(few, [], qos=2, size=100),
        "QoS 1, 100 B, stored session": raw(
            messages, [least("embedded", rate, 1.0, "mosquitto")], qos=1, size=100, persistent=True
        ),
        "QoS 1, 10 KB": raw(few, [], qos=1, size=10_000),
        "QoS 1, 1 MB": raw(
            max(20, messages // 250), [least("embedded", rate, 0.7, "mosquitto")], qos=1, size=1_000_000
        ),
        "raw fan-in 20 to 1, QoS 1": raw(few, [], qos=1, size=100, publishers=20),
        "raw fan-out 1 to 20, QoS 0": raw(few // 5, [], qos=0, size=100, subscribers=20),
        "paho 1 to 1, QoS 0": client(few, qos=0),
        "paho 1 to 1, QoS 1": client(few, qos=1),
        "paho 1 to 1, QoS 2": client(few, qos=2),
        "paho fan-in 20 to 1, QoS 1": client(few, qos=1, publishers=20),
        "paho fan-out 1 to 20, QoS 0": client(few // 5, qos=0, subscribers=20),
        "latency at 200/s, QoS 1": Case(
            max(200, messages // 100),
            latency,
            [most("embedded", "p50 ms", 1.5, "mosquitto"), most("embedded", "p99 ms", 5)],
        ),
        "connect and disconnect, one at a time": Case(max(100, messages // 50), partial(connects, together=1), []),
        "connect and disconnect, 20 at a time": Case(
            max(100, messages // 50), partial(connects, together=20), [least("embedded", "connects/s", 5, "amqtt")]
        ),
        "idle client": Case(400, idle, [most("embedded", "KB each", 40)]),
        "silent client, 500 retained": Case(500, silent, [most("embedded", "bytes", 4)]),
        "flood, slow recorder, 100 B": filled(messages, 100, "slow"),
        "flood, recorder stalled 3 s, 1 KB": filled(messages * 6 // 5, 1000, "stalled"),
        "flood, absent recorder, 100 B": filled(messages * 7 // 5, 100, "absent"),
        "flood, absent recorder, 500 KB": filled(messages * 3 // 50, 500_000, "absent"),
    }


def judge(goal: Goal, figures: dict[str, Figures]) -> str:
    """One line: met or not, what was measured, what was wanted."""
    mine = figures.get(goal.broker, {}).get(goal.figure)
    theirs = figures.get(goal.peer, {}).get(goal.figure) if goal.peer else 1.0
    if mine is None or not theirs:
        return f"    -       {goal.broker}: {goal.figure} not measured"
    value = mine / theirs
    met = value >= goal.bound if goal.kind == "at least" else value <= goal.bound
    unit = f"x {goal.peer}'s" if goal.peer else ""
    word = "PASS  " if met else "MISSED"
    return f"    {word}  {goal.broker}: {goal.figure} {value:.4g}{unit}, {goal.kind} {goal.bound:g}{unit and 'x'}"


def measure(case: Case, kinds: dict[str, type[BrokerProcess]], repeats: int) -> dict[str, Figures]:
    """Broker → medians; who fails is left out."""
    found: dict[str, list[Figures]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, kind in kinds.items():
            with tempfile.TemporaryDirectory() as folder:
                broker = kind(Path(folder))
                broker.start()
                slow = SLOW.get(name, 1) if case.number > 1000 else 1
                try:
                    found[name].append(case.run(broker, max(20, case.number // slow)))
                except (AssertionError, Closed, OSError) as exc:
                    print(f"    {name}: {type(exc).__name__} {exc}")
                finally:
                    broker.kill()
    return {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in found.items()
        if runs
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--case", action="append", help="only cases that contain this")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="only these")
    arguments = parser.parse_args()
    if not 1000 <= arguments.messages <= 65_535:
        parser.error("--messages: 1000 to 65535, each has a packet identifier of its own")
    kinds = {name: kind for name, kind in BROKERS.items() if name in (arguments.broker or BROKERS)}
    if "mosquitto" in kinds and MosquittoProcess.missing():
        print(MosquittoProcess.missing(), file=sys.stderr)
        del kinds["mosquitto"]
    verdicts = []
    print(f"{'case':34}" + "".join(f"{name:>24}" for name in kinds))
    for name, case in cases(arguments.messages).items():
        if arguments.case and not any(part in name for part in arguments.case):
            continue
        print(name, flush=True)
        figures = measure(case, kinds, arguments.repeats)
        base = figures.get("mosquitto", {})
        for figure in dict.fromkeys(figure for each in figures.values() for figure in each):
            columns = []
            for broker in kinds:
                value = figures.get(broker, {}).get(figure)
                ratio = f"{value / base[figure]:8.2f}x" if value is not None and base.get(figure) else " " * 9
                columns.append(f"{'-' if value is None else f'{value:,.1f}':>15}{ratio}")
            print(f"    {figure:30}" + "".join(columns))
        verdicts += [judge(goal, figures) for goal in case.goals]
        print("\n".join(verdicts[len(verdicts) - len(case.goals) :]) if case.goals else "", flush=True)
    missed = sum("MISSED" in verdict for verdict in verdicts)
    print(f"{len(verdicts)} goals, {missed} missed; load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, "
          f"Python {sys.version.split()[0]}")  # fmt: skip


if __name__ == "__main__":
    main()
