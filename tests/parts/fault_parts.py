"""A bench to break on purpose: a broker, a recorder and a publisher as processes, and an independent count.

`Witness` notes in files what it is about to publish and what it has published; `FaultBench` kills, stops and cuts as a
seeded schedule says, ends everything in order, and compares the count with `ether verify --json` and with every row.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from order import PUBACK, PUBLISH, Packets

from ether import codecs, ether_pub, ether_start, process, topics
from ether.model import Message
from ether.mqtt import BrokerLimits, Connection, Receipt
from ether.outbox import leftovers, outbox_folder
from ether.recorder.entries import journal_folder
from ether.recorder.reader import open_recording

TOPICS = ("witness/reading", "witness/frame")
STOP_S = 10.0 if os.environ.get("SOAK_ROUNDS") else 2.0
"""A process that is stopped sleeps for so long."""
MOST_RESENT, DRAIN_S = 3, 30.0
"""So often a message is sent again at most, in the mean; and so soon all is stored after the last fault."""


class Witness:
    """Publishes until told to halt, and keeps a file for each start and topic: ``+`` before, ``=`` after a message."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.start = f"{os.getpid()}-{os.urandom(3).hex()}"
        self.halted = self.folder / "halt"

    def _count(self, topic: str, value: Callable[[int], dict[str, Any]], pause_s: float) -> Iterator[dict[str, Any]]:
        name = topic.rpartition("/")[2]
        file = os.open(self.folder / f"sent-{name}-{self.start}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        number = 0
        while not self.halted.exists():
            os.write(file, b"+")
            yield {"start": self.start, "i": number, **value(number)}
            os.write(file, b"=")
            number += 1
            time.sleep(pause_s)
        os.close(file)

    @ether_start(background=True)
    @ether_pub(topic=TOPICS[0])
    def readings(self) -> Iterator[dict[str, Any]]:
        yield from self._count(TOPICS[0], lambda number: {"value": number / 2}, 0.002)

    @ether_start(background=True)
    @ether_pub(topic=TOPICS[1])
    def frames(self) -> Iterator[dict[str, Any]]:
        yield from self._count(TOPICS[1], lambda number: {"frame": np.full(3000, number, "<u4")}, 0.05)


def wait_until(condition: Callable[[], Any], what: str, within: float = 60.0) -> Any:
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.01)
    return found


def compare(folder: Path, file: Path, report: dict[str, Any]) -> None:
    """Assert that every message counted as published is in the file once, and nothing else, and the report says so."""
    tallies = sorted(
        (tally["topic"], tally["stored"], tally["received"], tally["last"] + 1, tally["missing"])
        for tally in report["tallies"]
        if tally["topic"] in TOPICS
    )
    expected = []
    with open_recording(file) as recording:
        for topic in TOPICS:
            table = recording[topic]
            starts, numbers = np.asarray(table["start"]).astype(str), np.asarray(table["i"])
            for counted in folder.glob(f"sent-{topic.rpartition('/')[2]}-*"):
                start = counted.name.split("-", 2)[2]
                stored = np.sort(numbers[starts == start])
                marks = counted.read_bytes()
                tried, done = marks.count(b"+"), marks.count(b"=")
                assert done <= len(stored) <= tried, f"{topic} of {start}: {done}, {len(stored)}, {tried}"
                assert stored.tolist() == list(range(len(stored))), f"{topic} of {start}: not each once"
                if len(stored):
                    expected.append((topic, len(stored), len(stored), len(stored), 0))
            assert not len(recording.gaps)
            known = {counted.name.split("-", 2)[2] for counted in folder.glob("sent-*")}
            assert set(starts.tolist()) <= known
    assert tallies == sorted(expected)
    assert report["damage"] == []
    assert report["unproven"] == []
    assert report["complete"] is True


class _Proxy:
    """A TCP proxy in front of a broker; what it does to what passes is in `_pump`."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                front, _ = self._server.accept()
                try:
                    back = socket.create_connection(("127.0.0.1", self.behind), 5)
                except OSError:
                    front.close()
                    continue
                self.connections += 1
                for ends in ((front, back, True), (back, front, False)):
                    threading.Thread(target=self._pump, args=(*ends, self.connections), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, to_broker: bool, connection: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


class Cutter(_Proxy):
    """Cuts each connection, in the middle of a packet, after a random number of bytes."""

    def __init__(self, port: int, rng: random.Random, most: int) -> None:
        self.cuts = 0
        self.most = most
        self.cutting = True
        self._rng = rng
        super().__init__(port)

    def _pump(self, source: socket.socket, target: socket.socket, to_broker: bool, connection: int) -> None:
        left = self._rng.randint(1, 60_000) * 2
        try:
            while data := source.recv(65_536):
                if self.cutting and self.cuts < self.most and len(data) >= left:
                    target.sendall(data[: left - 1])
                    self.cuts += 1
                    break
                target.sendall(data)
                left -= len(data)
        except OSError:
            pass
        for each in (source, target):
            with contextlib.suppress(OSError):
                if self.cutting:  # a reset, not an orderly end
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        self.cutting = False
        super().close()


class Sieve(_Proxy):
    """Reads along, packet by packet: withholds what it is told to, and knows which acknowledgements are not in order.

    Args:
        port: of the broker behind.
        withheld: topic to numbers of messages that never reach the broker; their publisher is told that they did.
    """

    def __init__(self, port: int, withheld: dict[str, set[int]] | None = None) -> None:
        self.withheld = {topic: set(numbers) for topic, numbers in (withheld or {}).items()}
        """What is still to come."""
        self.unacknowledged: dict[int, set[int]] = {}
        """Of each connection: packet ids that its client was sent, and has not acknowledged."""
        self.acknowledged = 0
        self.stale: list[tuple[int, int]] = []
        """Connection and packet id where a client acknowledged what that connection had not brought."""
        super().__init__(port)

    def _pump(self, source: socket.socket, target: socket.socket, to_broker: bool, connection: int) -> None:
        packets = Packets()
        try:
            while data := source.recv(65_536):
                passing = []
                for kind, flags, body, packet in packets.feed(data):
                    if to_broker and kind == PUBLISH and (identity := self._withholds(flags, body)):
                        source.sendall(bytes([PUBACK << 4, 2]) + identity)
                        continue
                    self._note(
                        kind, flags, body, to_broker, self.unacknowledged.setdefault(connection, set()), connection
                    )
                    passing.append(packet)
                target.sendall(b"".join(passing))
        except OSError:
            pass
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _withholds(self, flags: int, body: bytes) -> bytes:
        """Return the packet id of a message that is not to pass."""
        end = 2 + int.from_bytes(body[:2], "big")
        numbers = self.withheld.get(body[2:end].decode(), set())
        envelope = codecs.envelope_of(body[end + 2 :]) if numbers and flags & 6 == 2 else None
        if envelope is None or envelope.n not in numbers:
            return b""
        numbers.remove(envelope.n)
        return body[end : end + 2]

    def _note(
        self, kind: int, flags: int, body: bytes, to_broker: bool, unacknowledged: set[int], connection: int
    ) -> None:
        if kind == PUBLISH and not to_broker and flags & 6:
            end = 2 + int.from_bytes(body[:2], "big")
            unacknowledged.add(int.from_bytes(body[end : end + 2], "big"))
        elif kind == PUBACK and to_broker:
            identity = int.from_bytes(body[:2], "big")
            self.acknowledged += 1
            if identity in unacknowledged:
                unacknowledged.remove(identity)
            else:
                self.stale.append((connection, identity))


class JumpingClock:
    """Moves the wall clock of processes that start with its folder on their path; monotonic clocks stay."""

    CODE = """
import mmap, os, struct, time
_offset = mmap.mmap(os.open({file!r}, os.O_RDONLY), 8, prot=mmap.PROT_READ)
_ns = time.time_ns
time.time_ns = lambda: _ns() + struct.unpack("<q", _offset[:])[0]
time.time = lambda: time.time_ns() / 1e9
"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clock"
        self.folder.mkdir()
        file = self.folder / "offset"
        file.write_bytes(bytes(8))
        (self.folder / "sitecustomize.py").write_text(self.CODE.format(file=str(file)))
        with open(file, "r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 8)

    def jump(self, seconds: float) -> None:
        struct.pack_into("<q", self._map, 0, int(seconds * 1e9))


class FaultBench:
    """One recording under fire."""

    def __init__(self, broker: Any, folder: Path, *, seed: int, data: Path | None = None) -> None:
        self.broker = broker
        self.folder = folder / "witness"
        self.folder.mkdir()
        self.file = (data or folder) / "faults.h5"
        self.outbox = outbox_folder(self.file, "witness")
        self.rng = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.clock = JumpingClock(folder)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.url = broker.url
        self.cutter: Cutter | None = None
        self.status: dict[str, Any] = {}
        self.resent: dict[str, int] = {}
        """How many messages each start of the witness has sent again, by its own count."""
        self.drained_s = 0.0
        """How long it took until all was stored, from the last fault on."""
        self._quiet_since = time.monotonic()
        self.confirmations = 0
        self._watch = Connection(broker.url, "watch")
        self._watch.on_message = self._hear
        self._watch.subscribe([topics.status("recorder"), topics.status("witness"), topics.stored("+")])
        self._watch.open(10)

    def _hear(self, message: Message, _receipt: Receipt | None) -> None:
        if message.topic == topics.status("recorder"):
            self.status = json.loads(message.payload or b"{}")
        elif message.topic == topics.status("witness"):
            said = json.loads(message.payload or b"{}")
            boot, counts = str(said.get("boot")), said.get("counts") or {}
            self.resent[boot] = max(self.resent.get(boot, 0), counts.get("resent", 0))
        else:
            self.confirmations += 1

    # --- processes

    def _spawn(self, name: str, module: str, orders: dict[str, Any]) -> None:
        path = os.pathsep.join([str(self.clock.folder), os.environ.get("PYTHONPATH", "")])
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = path
        try:
            child = process.spawn(module, name)
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
        process.give_orders(child, orders)
        self.children[name] = child

    def start(self, name: str, file: Path | None = None, **orders: Any) -> None:
        self._quiet_since = time.monotonic()
        if name == "broker":
            self.broker.start()
        elif "recorder" in name:
            self._spawn(
                name, "ether.recorder.ingest",
                {"name": name, "url": self.url, "file": str(file or self.file), "topics": ["#"], "exclude": [],
                 "log_level": "INFO", "session": {"id": "s1", "name": "faults"}, "max_segment_bytes": 1 << 20,
                 "start_timeout": 60.0, **orders},
            )  # fmt: skip
        else:
            outbox = {"folder": str(self.outbox), "topics": ["#"], "exclude": []}
            self._spawn(
                "witness", "ether.session",
                {"name": "witness", "url": self.url, "tls": None, "namespace": "", "cwd": str(self.folder),
                 "log_level": "INFO", "class_path": "fault_parts.Witness", "args": [str(self.folder)], "kwargs": {},
                 "shown": {}, "pickled": "", "marks": {}, "params": {}, "outbox": outbox, "recorded": False,
                 "started": True, "reload": False,
                 "start_timeout": 60.0, "drain_timeout": 10.0, "limits": asdict(BrokerLimits()),
                 "hang_after": None, "restart_hung": False, **orders},
            )  # fmt: skip

    def kill(self, name: str) -> None:
        self.faults[f"kill -9 {name}"] += 1
        if name == "broker":
            self.broker.kill()
            return
        self.children[name].kill()
        self.bury(name)

    def bury(self, name: str, within: float = 60.0) -> int:
        child = self.children.pop(name)
        code = child.wait(within)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        return code

    def _await(self, condition: Callable[[], Any], what: str, within: float = 60.0) -> None:
        def happened() -> Any:
            ended = [name for name, child in self.children.items() if child.poll() is not None]
            assert not ended, f"ended by itself: {ended}"
            return condition()

        wait_until(happened, what, within)

    def ready(self) -> bool:
        return self.status.get("state") == "ready" and "recorder" in self.children

    # --- faults

    def sent(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("sent-*")) // 2

    def more_sent(self, count: int) -> None:
        so_far = self.sent()
        self._await(lambda: self.sent() >= so_far + count, f"{count} messages more", max(60.0, count / 100))

    def round(self, fault: str) -> None:
        """Let it run for a random while, and then break something."""
        if self.rng.random() < 0.7:  # otherwise it hits processes that are just starting
            self._await(self.ready, "the recorder being ready")
            so_far = self.confirmations
            self._await(lambda: self.confirmations > so_far, "a confirmation")
        self.more_sent(self.rng.randint(5, 200))
        if fault == "pair":
            hurt = self.rng.sample(["recorder", "witness", "broker"], 2)
            self.faults["two at once"] += 1
        elif fault == "stop":
            self._stop_for_a_while(self.rng.choice(["recorder", "witness", "broker"]))
            return
        elif fault == "clock":
            self.faults["clock jump"] += 1
            self.clock.jump(self.rng.choice([-86_400.0, -3600.0, -1.5, 0.0, 2.5, 7200.0, 400 * 86_400.0]))
            return
        else:
            hurt = [fault]
        for name in hurt:
            self.kill(name)
        for name in sorted(hurt):  # the broker first
            self.start(name)

    def _stop_for_a_while(self, name: str) -> None:
        self.faults[f"SIGSTOP {name}"] += 1
        child = self.broker.process if name == "broker" else self.children[name]
        child.send_signal(signal.SIGSTOP)
        try:
            threading.Event().wait(STOP_S)
        finally:
            child.send_signal(signal.SIGCONT)
            self._quiet_since = time.monotonic()

    def cut_connections(self, count: int) -> None:
        """From now on, processes that start connect through a proxy that cuts."""
        self.cutter = Cutter(self.broker.port, self.rng, count)
        self.url = self.cutter.url

    # --- the end

    def end(self, drain_s: float = DRAIN_S) -> dict[str, Any]:
        """End everything in order; return what `ether verify --json` says, once it agrees with the count.

        Args:
            drain_s: within which all must be stored.
        """
        if self.cutter is not None:
            self.faults["connection cut"] = self.cutter.cuts
            self.cutter.cutting = False
            self._quiet_since = time.monotonic()
        settling_since = self._quiet_since
        self._await(self.ready, "the recorder being ready")
        (self.folder / "halt").touch()
        for _ in range(10):
            self.stop("witness")
            if not leftovers(self.outbox):
                break
            self.start("witness")  # some of what starts before it left takes longer than an instance waits
        assert not leftovers(self.outbox), f"the outboxes are not settled: {leftovers(self.outbox)}"
        self.drained_s = time.monotonic() - settling_since
        assert self.drained_s < drain_s
        assert sum(self.resent.values()) <= MOST_RESENT * self.sent()
        assert self.stop("recorder") == 0
        assert not journal_folder(self.file).exists()
        report = self.verify()
        compare(self.folder, self.file, report)
        return report

    def stop(self, name: str) -> int:
        """Tell a process to stop, again if its broker has forgotten, until it ends."""
        child = self.children[name]

        def ended() -> bool:
            self._watch.publish(topics.command(name, "stop"), b"{}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(2.0)
            return child.poll() is not None

        wait_until(ended, f"the end of the {name}", 120.0)
        return self.bury(name)

    def verify(self, file: Path | None = None) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "ether.cli", "verify", "--json", str(file or self.file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if report["complete"] else 5), done.stderr
        return report

    def figures(self, report: dict[str, Any]) -> dict[str, Any]:
        stored = sum(tally["stored"] for tally in report["tallies"])
        duplicates = sum(tally["duplicates"] for tally in report["tallies"])
        return {
            "faults": dict(self.faults), "published": self.sent(), "stored": stored, "came again": duplicates,
            "sent again": sum(self.resent.values()), "drained after s": round(self.drained_s, 1),
        }  # fmt: skip

    def close(self) -> None:
        for name, child in list(self.children.items()):
            child.send_signal(signal.SIGCONT)
            child.kill()
            self.bury(name)
        self._watch.close(0.5)
        if self.cutter is not None:
            self.cutter.close()
