"""Member: one named client of the system: connection, last will, retained status and description, heartbeat, log.

Instances, the recorder and the session are members. Rules: wire contract, sections 4 and 5.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pydantic_core

from ether import clock, codecs, spans, topics
from ether.errors import EtherError
from ether.model import About, Message, State, Status
from ether.mqtt import Connection, Receipt
from ether.publisher import Publisher

__all__ = ["LOST_CONNECTION", "Member", "about_json", "new_boot", "read_about", "read_status"]

logger = logging.getLogger(__name__)

LOST_CONNECTION = "connection lost"
"""Detail of a last will."""
_LOOK_S = 2.0
"""So often a member looks whether what it counts has changed."""
_SPANS = 1000
"""So many stretches of numbers are remembered of each publisher on a topic; without holes there is one."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def new_boot() -> str:
    """Return a boot id: eight hexadecimal digits, new at each start of a publisher."""
    return secrets.token_hex(4)


def read_status(payload: bytes) -> Status | None:
    """Return a status from the wire; None for an empty payload (cleared) and for what is no status.

    A plain word (``ready``) is accepted from small devices.
    """
    try:
        found: dict[str, Any] = pydantic_core.from_json(payload) if payload[:1] == b"{" else {"state": payload.decode()}
        return Status(
            State(found["state"]),
            str(found.get("boot", "")),
            found.get("t"),
            str(found.get("detail", "")),
            found.get("every"),
            dict(found.get("counts", {})),
            dict(found.get("last", {})),
        )
    except (ValueError, KeyError, TypeError):
        return None


def read_about(name: str, payload: bytes) -> About | None:
    """Return a self-description from the wire; None for an empty payload and for what is none."""
    try:
        found = pydantic_core.from_json(payload)
        keys = (
            "boot", "host", "pid", "version", "source", "file", "args", "kwargs", "publishes", "subscribes", "calls",
            "params", "outbox",
        )  # fmt: skip
        return About(name, class_name=str(found.get("class", "")), **{key: found[key] for key in keys if key in found})
    except (ValueError, AttributeError, TypeError):
        return None


class Member:
    """One named client. Its status and description are announced at every (re)connect and repeated as a heartbeat."""

    def __init__(
        self, url: str, name: str, *, namespace: str = "", boot: str | None = None, every: float = 6.0,
        connect: Callable[..., Connection] = Connection, **options: Any,
    ) -> None:  # fmt: skip
        """Prepare; nothing is sent before `open`.

        Args:
            url: the broker.
            name: unique in the namespace.
            namespace: put before every topic.
            boot: boot id; a new one by default.
            every: seconds after which a status is repeated at the latest; a watcher takes silence of three times that
                for a loss. What it counts is told after two seconds where that has changed.
            connect: makes the connection.
            options: for `Connection`: persistent, manual_ack, tls, client_id.
        """
        self.name = topics.check_name(name)
        self.boot = boot or new_boot()
        self.counts: Counter[str] = Counter()
        """What the status tells: received, handled, failed, rejected, published, missed, queued …"""
        self.describe: Callable[[], Mapping[str, float]] = dict
        """Called for each status: counts that are derived rather than kept."""
        self.on_message: Callable[[Message, Receipt | None], object] = lambda message, receipt: None
        self.on_up: Callable[[bool], None] = lambda session_present: None
        self._numbers: dict[tuple[str, str], tuple[str, list[list[int]]]] = {}
        """By publisher and topic: its boot id, and the numbers that have come, as `spans`."""
        self._been_up = False
        self._about: About | None = None
        self._about_overwritten = False
        self._status_topic, self._about_topic = topics.status(name), topics.about(name)
        self._status = Status(State.INIT, self.boot, clock.now(), every=every)
        self._told: dict[str, float] = {}
        self._told_at = 0.0
        self._announcing = threading.RLock()
        self._closed = threading.Event()
        will = Status(State.LOST, self.boot, detail=LOST_CONNECTION)
        options.setdefault("client_id", f"{name}-{self.boot}")
        self.connection = connect(url, namespace=namespace, will=(topics.status(name), _status_json(will)), **options)
        self.connection.on_message = self._receive
        self.connection.on_up = self._came_up
        self.publisher = Publisher(self.connection, name, self.boot, self.counts)
        self._log_handler: _LogToTopic | None = None

    @property
    def state(self) -> State:
        return self._status.state

    @property
    def detail(self) -> str:
        return self._status.detail

    def open(self, timeout: float = 10.0) -> None:
        """Connect and announce; BrokerError where that fails."""
        self.connection.subscribe([topics.status(self.name), topics.about(self.name)])
        self.connection.open(timeout)
        clock.thread(self._beat, name=f"heartbeat {self.name}")

    def set_about(self, about: About) -> None:
        """Announce the self-description, now and at every reconnect."""
        outbox = "" if self.publisher.outbox is None else "disk"
        self._about = replace(about, name=self.name, boot=self.boot, outbox=outbox)
        if self.connection.connected:
            self._announce_about()

    def set_status(self, state: State, detail: str = "", last: dict[str, int] | None = None) -> None:
        """Announce a state, now, as heartbeat and at every reconnect."""
        with self._announcing:
            self._status = replace(self._status, state=state, detail=detail, t=clock.now(), last=last or {})
            self._announce_status()

    def log_to_topic(self, level: str = "INFO") -> None:
        """Send this process's log records to ``ether/log/<name>`` too."""
        self._log_handler = _LogToTopic(self)
        self._log_handler.setLevel(level)
        logging.getLogger().addHandler(self._log_handler)

    def leave(self, timeout: float = 5.0) -> None:
        """Say goodbye with the last number of every topic, once all that is to be recorded has been (or time is up)."""
        outbox = self.publisher.outbox
        if outbox is not None and self.connection.connected and not outbox.settle(timeout):
            logger.error("%s: the recorder did not confirm everything within %g s", self.name, timeout)
        self.set_status(State.DISCONNECTED, last=self.publisher.last)

    def close(self, timeout: float = 5.0, clear: bool = False) -> bool:
        """Disconnect in order; True if the broker has confirmed everything.

        Args:
            timeout: seconds to wait for confirmations.
            clear: remove the retained status and description, as nobody will look for them.
        """
        with self._announcing:  # no heartbeat may follow what we send now
            self._closed.set()
        if self._log_handler is not None:
            logging.getLogger().removeHandler(self._log_handler)
        if self.publisher.outbox is not None:
            self.publisher.outbox.close()
        if clear and self.connection.connected:
            for topic in (topics.status(self.name), topics.about(self.name)):
                self.connection.publish(topic, b"", 1, retain=True)
        return self.connection.close(timeout)

    def _came_up(self, session_present: bool) -> None:
        self.counts["reconnects"] += self._been_up
        self._been_up = True
        if self._about is not None:
            self._announce_about()
        self._announce_status()
        if self.publisher.outbox is not None:
            self.publisher.outbox.renew()
        self.on_up(session_present)

    def _announce_status(self, unless_known_for: float = 0.0) -> None:
        """Announce it; not where so many seconds have not passed, and nothing has changed, since it was."""
        with self._announcing:
            if self._closed.is_set():
                return
            counts = {**self.counts, **self.describe()}
            now = clock.monotonic()
            if counts == self._told and now - self._told_at < unless_known_for:
                return
            self._told, self._told_at = counts, now
            counts = {key: count for key, count in {**counts, **_usage()}.items() if count}
            status = replace(self._status, counts=counts)
            if self.connection.connected or self.connection.in_network_thread:
                self.connection.publish(topics.status(self.name), _status_json(status), 1, retain=True)

    def _announce_about(self) -> None:
        assert self._about is not None
        self.connection.publish(topics.about(self.name), about_json(self._about), 1, retain=True)

    def _receive(self, message: Message, receipt: Receipt | None) -> object:
        if message.topic == self._status_topic:
            status = read_status(message.payload)
            # Rule 5: an old will that arrives late must not stand as our state, nor what is no status.
            stale = status is None or (status.boot != self.boot and status.state is State.LOST)
            if stale and not self._closed.is_set():
                logger.info("%s: an old last will or a stranger overwrote the status; announcing it again", self.name)
                self._announce_status()
            if receipt is not None and self.connection.manual_ack:
                self.connection.acknowledge([receipt])
                return None
        elif message.topic == self._about_topic and self._about is not None:
            found = read_about(self.name, message.payload)
            self._about_overwritten |= found is None or found.boot != self.boot
        if self.publisher.outbox is not None:
            self.publisher.outbox.hear(message)
        if message.qos and not message.retain and not self.connection.manual_ack and self._came_before(message):
            self.counts["repeated"] += 1
            return None
        return self.on_message(message, receipt)

    def _came_before(self, message: Message) -> bool:
        """Return whether a publisher sent this number again, as it must where a broker died before it acknowledged."""
        envelope = codecs.numbering(message.payload)
        if envelope is None:
            return False
        key = envelope.by, message.topic
        boot, numbers = self._numbers.get(key, ("", []))
        if boot != envelope.b:  # it was started again
            boot, numbers = self._numbers[key] = envelope.b, []
        new = spans.add(numbers, envelope.n, envelope.n + codecs.readings_in(envelope) - 1)
        del numbers[:-_SPANS]
        return not new

    def _beat(self) -> None:
        every = self._status.every or _LOOK_S
        look_every = min(every, _LOOK_S)
        while not clock.wait_for(self._closed, look_every):
            with contextlib.suppress(EtherError):  # closed meanwhile
                if self.connection.connected:
                    with self._announcing:
                        if self._about_overwritten and not self._closed.is_set():  # rule 5, at this pace
                            self._about_overwritten = False
                            self._announce_about()
                    self._announce_status(every - look_every / 2)  # the next look would be too late


def _usage() -> dict[str, float]:
    """Return what this process has used of the processor, in seconds, and uses of memory, in MB."""
    user, system = os.times()[:2]
    found = {"cpu_s": round(user + system, 2)}
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:  # on Linux only
        found["rss_mb"] = round(int(file.read().split()[1]) * _PAGE_BYTES / 1e6, 1)
    return found


def _status_json(status: Status) -> bytes:
    content: dict[str, Any] = {"state": str(status.state), "boot": status.boot}
    content |= {key: value for key, value in asdict(status).items() if key not in content and value}
    return json.dumps(content, separators=(",", ":")).encode()


def about_json(about: About) -> bytes:
    content = {"ether": 1, "boot": about.boot, "class": about.class_name}
    content |= {
        key: value for key, value in asdict(about).items() if key not in ("name", "boot", "class_name") and value
    }
    return pydantic_core.to_json(content, inf_nan_mode="null", fallback=repr)


class _LogToTopic(logging.Handler):
    """Publishes log records; records of the network thread itself are left out, lest sending one make another."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self._member = member
        self._busy = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self._busy, "now", False) or record.name.startswith("paho"):
            return
        self._busy.now = True
        try:
            content = {
                "level": record.levelname,
                "message": self.format(record),
                "logger": record.name,
                "t": record.created,
            }
            if self._member.connection.connected:
                self._member.connection.publish(topics.log(self._member.name), json.dumps(content).encode(), 0)
        except Exception:  # noqa: BLE001 - logging must not raise; stderr has the record
            self.handleError(record)
        finally:
            self._busy.now = False
