"""A recorder as a process, with hand-made publishers around it: whatever they number, and whenever.

Where `fault_parts.FaultBench` has real publishers that send again what is missing, these do not: what the recorder has
not taken from the broker is lost, and the recording must say so.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from fault_parts import wait_until

from ether import clock, codecs, process, topics
from ether.model import Envelope, Message
from ether.mqtt import Connection, Receipt
from ether.recorder.entries import journal_folder


class Bench:
    """A recorder under test, and a client that watches and publishes."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.file = folder / "with space µ" / "growth.h5"
        self.journal = journal_folder(self.file)
        self.status: dict[str, Any] = {}
        self.stored: dict[str, dict[str, int]] = {}
        self.missing: dict[str, list[list[int]]] = {}
        self.confirmed_at = 0.0
        self.longest_wait_s = 0.0
        """Between two confirmations."""
        self.child: subprocess.Popen[bytes] | None = None
        self.client = Connection(url, "test")
        self.client.on_message = self._hear
        self.client.subscribe([topics.status("recorder"), topics.stored("+")])
        self.client.open(10)

    def _hear(self, message: Message, _receipt: Receipt | None) -> None:
        content = json.loads(message.payload or b"{}")
        if message.topic == topics.status("recorder"):
            self.status = content
            return
        now = clock.monotonic()
        self.longest_wait_s = max(self.longest_wait_s, now - (self.confirmed_at or now))
        self.confirmed_at = now
        self.stored.setdefault(topics.parse(message.topic).name, {}).update(content["topics"])  # type: ignore[union-attr]
        self.missing.update(content.get("missing", {}))

    def start(self, ready: bool = True, **orders: Any) -> None:
        before = self.status.get("boot")
        self.child = process.spawn("ether.recorder.ingest", "recorder")
        process.give_orders(
            self.child,
            {
                "url": self.url, "namespace": "", "file": str(self.file), "topics": ["#"], "exclude": [],
                "session": {"id": "s1", "name": "growth"}, "log_level": "WARNING",
                "provenance": {"config": "record: on\npassword: hunter2\n", "argv": ["ether", "up"]}, **orders,
            },
        )  # fmt: skip
        if ready:
            wait_until(
                lambda: self.state() == "ready" and self.status.get("boot") != before, "the recorder being ready"
            )

    def writers(self) -> list[int]:
        """Return the process ids of its HDF5 writer: one, or none while it is started again."""
        assert self.child is not None
        return [each.pid for each in psutil.Process(self.child.pid).children() if each.status() != psutil.STATUS_ZOMBIE]

    def keeps_up(self, number: int) -> bool:
        return self.state() == "alert" or number - self.stored.get("camera", {}).get("lab/camera", 0) < 200

    def state(self) -> str:
        return str(self.status.get("state"))

    def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        assert self.child.stdin is not None
        self.child.stdin.close()

    def stop(self, within: float = 30.0) -> int:
        assert self.child is not None
        self.client.publish(topics.command("recorder", "stop"), b"{}")
        return self.ended(within)

    def ended(self, within: float = 30.0) -> int:
        assert self.child is not None
        code = self.child.wait(within)
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        return code

    def publish(self, topic: str, number: int, by: str = "oven", boot: str = "b1", **more: Any) -> None:
        envelope = Envelope(by, boot, number, clock.now())
        self.client.publish(topic, codecs.encode({"value": number / 2, **more}, envelope))

    def say(self, name: str, state: str, boot: str = "b1", **more: Any) -> None:
        content = {"state": state, "boot": boot, **more}
        self.client.publish(topics.status(name), json.dumps(content).encode(), retain=True)

    def close(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.kill()
        self.client.close(1)


class Load:
    """Publishes from a thread, so many messages a second, each publisher in turn, until told to end.

    Each publisher says that it begins, and in the end which number was its last.
    """

    def __init__(
        self, bench: Bench, rate: float, names: Sequence[str] = ("oven",), spread: int = 1, **more: Any
    ) -> None:
        self.bench = bench
        self.names = names
        self.each = 0
        """So many messages each publisher has sent on each of its topics."""
        self._spread = spread
        self._more = more
        self._pause_s = len(names) * spread / rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def topics(self, name: str) -> list[str]:
        return [f"lab/{name}/{place}" for place in range(self._spread)] if self._spread > 1 else [f"lab/{name}"]

    @property
    def sent(self) -> int:
        return self.each * len(self.names) * self._spread

    def _run(self) -> None:
        due = clock.monotonic()
        while not self._ended.wait(max(0.0, due - clock.monotonic())):
            for name in self.names:
                for topic in self.topics(name):
                    self.bench.publish(topic, self.each, by=name, **self._more)
            self.each += 1
            due += self._pause_s

    def more(self, count: int) -> None:
        """Wait until so many more messages are sent."""
        so_far = self.sent
        self.upto(so_far + count)

    def upto(self, count: int, within: float = 60.0) -> None:
        wait_until(lambda: self.sent >= count, f"{count} messages sent", within)

    def stored(self) -> int:
        """Return up to which number everything is confirmed; -1 for nothing."""
        found = self.bench.stored
        return min(found.get(name, {}).get(topic, -1) for name in self.names for topic in self.topics(name))

    def __enter__(self) -> Load:
        for name in self.names:
            self.bench.say(name, "init")
        self._thread.start()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if failed is None:
            wait_until(lambda: self.stored() == self.each - 1, "all being confirmed")
            for name in self.names:
                last = dict.fromkeys(self.topics(name), self.each - 1)
                self.bench.say(name, "disconnected", last=last)
