"""Know the broker you are on: what it was seen to do, measured rather than assumed.

A broker may grant `$share/…` and deliver nothing, acknowledge what it drops, or keep no retained messages. `measure`
finds out by doing: with clients and topics of its own below a random prefix, which it clears away again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ether import clock, topics
from ether.address import Address
from ether.errors import BrokerError
from ether.mqtt import Driven, Tls

__all__ = ["DROPPED", "MATTERS", "QUEUE", "BrokerCapabilities", "advice", "keeps_retained", "measure"]

QUEUE = 1_500
"""Messages sent to an absent client. Mosquitto's default keeps 1,000."""
DROPPED = "$SYS/broker/publish/messages/dropped"
"""How much the broker has dropped since it started, where it counts that."""
MATTERS = ("retained", "wildcard_retained", "queued", "redelivered", "will")
"""What a session is worse off without."""
_PATIENCE_S = 5.0
"""For what should come. NATS sends again what was not acknowledged after 30 s: too late for a reconnect."""
_START_S = 1.0
"""The same while a session starts."""
_GRACE_S = 0.5
"""For what should not come, after something sent later has."""
_SMALL, _LARGE = 16 * 1024, 16 * 1024 * 1024
_LARGE_S = 20.0
_VERSION = "$SYS/broker/version"
_FRESH_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class BrokerCapabilities:
    """What a broker was seen to do. None could not be measured; `notes` says why."""

    address: str
    version: str = ""
    """As the broker says in ``$SYS/broker/version``; empty where it says nothing."""
    level: int = 4
    """Of the protocol: 4 is MQTT 3.1.1, 5 is MQTT 5."""
    retained: bool | None = None
    """It keeps the last retained message of a topic for who subscribes later."""
    wildcard_retained: bool | None = None
    """Also for who subscribes by a wildcard."""
    queued: int | None = None
    """How many of `QUEUE` messages of QoS 1 an absent client with a session got later."""
    redelivered: bool | None = None
    """What was not acknowledged came again right after a reconnect."""
    marked_duplicate: bool | None = None
    """And was marked as a duplicate."""
    will: bool | None = None
    """The last will of a client that vanished was sent."""
    shared: bool | None = None
    """Each message to a shared subscription reached exactly one of its members."""
    overlapping_copies: int | None = None
    """Of one message to a client with three subscriptions that match it; MQTT 3.1.1 leaves it to the broker."""
    largest_payload: int | None = None
    """Bytes of the largest payload that arrived; nothing above 16 MiB was tried."""
    refused_payload: int | None = None
    """Bytes of the smallest payload that the broker dropped, or ended the connection for."""
    spaced_topics: bool | None = None
    """A message on a topic with a space arrived."""
    drops_counted: bool | None = None
    """``$SYS/broker/publish/messages/dropped`` tells how much was dropped."""
    notes: dict[str, str] = field(default_factory=dict)
    """By field: why it could not be measured, or what was seen."""


class _Closed(Exception):
    """The broker ended the connection for what was asked of it."""


def measure(url: str, *, namespace: str = "", tls: Tls | None = None) -> BrokerCapabilities:
    """Measure all of it, for some seconds, with about 2,000 small messages and some of up to 16 MiB; remember it.

    Raises:
        BrokerError: nobody answers, or it refuses us.
    """
    probe = _Probe(url, namespace, tls, _PATIENCE_S)
    probe.look()
    found = probe.try_out("level", "retained", "queued", "redelivered", "will", "shared", "overlapping_copies",
                          "spaced_topics", "drops_counted", "largest_payload")  # fmt: skip
    if probe.barred:
        return found
    try:
        path = _path(found)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(found), "measured": clock.now()}), encoding="utf-8")
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        pass  # the next session knows less
    return found


def keeps_retained(url: str, *, namespace: str = "", tls: Tls | None = None) -> BrokerCapabilities:
    """Return what was measured of a broker within a week; of another one only whether it retains, and counts drops.

    The latter takes a few messages, and a second at most where they do not come back.

    Raises:
        BrokerError: nobody answers, or it refuses us.
    """
    probe = _Probe(url, namespace, tls, _START_S)
    probe.look()
    return _remembered(probe.found) or probe.try_out("retained")


_ADVICE = {
    "retained": "`ether ps`, `ether status` and whoever joins later know nothing of what runs; switch retained "
    "messages on (Mosquitto: `retain_available true`), or use `broker: embedded`",
    "wildcard_retained": "`ether ps` and `ether status` ask for retained messages by a wildcard and find nothing; use "
    "another broker",
    "queued": "what comes beyond that while the recorder is away is dropped, and only ether's own publishers send it "
    "again; raise the limit (Mosquitto: `max_queued_messages 10000000`)",
    "redelivered": "what was on its way to the recorder when its connection broke comes again from ether's own "
    "publishers only",
    "will": "whoever vanishes is missed by its heartbeat only, after some seconds; a device without one never",
    "shared": "do not build on `$share/…` here; nothing in ether does",
    "refused_payload": "a larger one is an error at its publisher; raise the limit, or send it in parts",
    "spaced_topics": "a topic with a space is an error at its publisher; choose names without",
    "drops_counted": "what the broker drops is seen only where publishers number their messages, as ether's do",
}


def advice(found: BrokerCapabilities) -> dict[str, str]:
    """Return, by field, what is lost where the broker lacks something, and the way out."""
    lacking = {name for name in _ADVICE if getattr(found, name) is False}
    if found.queued is not None and found.queued < QUEUE:
        lacking.add("queued")
    if found.refused_payload is not None:
        lacking.add("refused_payload")
    return {name: text for name, text in _ADVICE.items() if name in lacking}


def _remembered(looked_at: BrokerCapabilities) -> BrokerCapabilities | None:
    try:
        content = json.loads(_path(looked_at).read_text(encoding="utf-8"))
        age_s = clock.now() - content.pop("measured")
        return BrokerCapabilities(**content) if 0 <= age_s < _FRESH_S else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # none, or of another version of ether
        return None


def _path(found: BrokerCapabilities) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{found.address} {found.version}".encode()).hexdigest()[:16]
    return folder / "ether" / "brokers" / f"{name}.json"


class _Probe:
    """One broker under test. Each test makes its own clients, waits a bounded time, and leaves nothing behind."""

    def __init__(self, url: str, namespace: str, tls: Tls | None, patience_s: float) -> None:
        self.url, self.tls, self.patience_s = url, tls, patience_s
        self.token = secrets.token_hex(6)
        self.prefix = topics.join(namespace, topics.probe(self.token))
        self.found = BrokerCapabilities(str(Address.parse(url)))
        self.barred = ""
        """Why this user can try out nothing."""

    def look(self) -> None:
        """Learn who it is, and whether our own messages come back to us at all; BrokerError where nobody answers."""
        topic = f"{self.prefix}/own"
        with self.client() as client:

            def echoed(times: int) -> bool:
                client.publish(topic, b"x")
                return client.wait(lambda: sum(got.topic == topic for got in client.messages) >= times, self.patience_s)

            if not client.subscribe(topic, timeout=self.patience_s):
                self.barred = f"this user may not subscribe to {topic}"
            elif not echoed(1):
                self.barred = f"this user's messages to {topic} do not arrive; may it publish there?"
            elif client.subscribe(_VERSION, DROPPED, timeout=self.patience_s):
                echoed(2)  # what it says of itself is here by then; asked last, as some end the connection for it
                said = {got.topic: got.payload.decode(errors="replace") for got in client.messages}
                self.note(version=said.get(_VERSION, ""), drops_counted=True if DROPPED in said else None)

    def try_out(self, *names: str) -> BrokerCapabilities:
        """Run the tests of these fields; what they do not cover stays unknown."""
        for name in names:
            if self.barred and name not in ("level", "drops_counted"):
                self.note(name, self.barred)
                continue
            try:
                getattr(self, f"_{name}")()
            except _Closed:
                self.note(name, "it ends the connection", **{name: False})
            except BrokerError as exc:
                with self.client():  # BrokerError where it is gone altogether
                    self.note(name, str(exc))
        return self.found

    def note(self, name: str = "", text: str = "", **values: Any) -> None:
        notes = {**self.found.notes, name: text} if name else self.found.notes
        self.found = replace(self.found, notes=notes, **values)

    @contextmanager
    def client(self, name: str = "", **options: Any) -> Iterator[Driven]:
        """A connected client that says goodbye at the end; without a name it is one of its own."""
        client_id = f"ether-probe-{self.token}-{name or secrets.token_hex(3)}"
        client = Driven(self.url, client_id, tls=self.tls, **options).open(self.patience_s)
        try:
            yield client
        finally:
            client.close()

    def _sent(self, client: Driven, *payloads: bytes, topic: str, retain: bool = False) -> None:
        for payload in payloads:
            client.publish(topic, payload, retain=retain)
        if not client.flush(self.patience_s):
            raise _Closed if client.ended else BrokerError(f"no acknowledgement within {self.patience_s:g} s")

    def _granted(self, client: Driven, *filters: str) -> bool:
        granted = client.subscribe(*filters, timeout=self.patience_s)
        if client.ended:
            raise _Closed
        return granted

    # --- the tests, by the field they fill

    def _level(self) -> None:
        try:
            with self.client(level=5):
                self.note(level=5)
        except BrokerError:
            pass  # we have connected at 4

    def _retained(self) -> None:
        topic = f"{self.prefix}/retained/one"
        try:
            with self.client() as client:
                self._sent(client, b"kept", topic=topic, retain=True)
                seen = []
                for topic_filter in (topic, f"{self.prefix}/retained/+"):
                    client.messages.clear()
                    self._granted(client, topic_filter)
                    seen.append(client.wait(lambda: any(got.retain for got in client.messages), 2.0))
                self.note(retained=seen[0], wildcard_retained=seen[1])
        finally:
            self._clear(topic)

    def _clear(self, topic: str) -> None:
        try:
            with self.client() as client:
                client.publish(topic, b"", retain=True)
                client.flush(self.patience_s)
        except BrokerError:
            pass  # it is gone, or ends the connection: there is nothing to clear

    @contextmanager
    def _away(self, topic: str, **options: Any) -> Iterator[Callable[..., Any]]:
        """A client with a persistent session, subscribed; yields what connects it, and forgets the session after."""
        name = secrets.token_hex(3)

        def connect(**more: Any) -> Any:
            return self.client(name, persistent=True, **more)

        try:
            with connect(**options) as client:
                self._granted(client, topic)
            yield connect
        finally:
            with self.client(name):
                pass  # a clean session takes the place of the persistent one

    def _queued(self) -> None:
        topic = f"{self.prefix}/queued"
        with self._away(topic) as connect:
            with self.client() as publisher:
                for start in range(0, QUEUE, 100):
                    self._sent(publisher, *(b"%d" % n for n in range(start, start + 100)), topic=topic)
            with connect() as client:
                arrived = 0
                while client.wait(lambda: len(client.messages) >= QUEUE, 1.0) is False and not client.ended:
                    if len(client.messages) == arrived:
                        break  # nothing new for a second
                    arrived = len(client.messages)
                self.note(queued=len({got.payload for got in client.messages}))

    def _redelivered(self) -> None:
        topic = f"{self.prefix}/again"
        with self._away(topic) as connect:
            with connect(acknowledges=False) as client:
                with self.client() as publisher:
                    self._sent(publisher, b"1", b"2", b"3", topic=topic)
                if not client.wait(lambda: len(client.messages) >= 3, self.patience_s):
                    self.note("redelivered", "the messages did not arrive at all")
                    return
                client.drop()
            with connect() as client:
                came = client.wait(lambda: len(client.messages) >= 3, self.patience_s)
                self.note(redelivered=came)
                if came:
                    self.note(marked_duplicate=all(got.dup for got in client.messages))
                else:
                    self.note("redelivered", f"{len(client.messages)} of 3 within {self.patience_s:g} s")

    def _will(self) -> None:
        topic = f"{self.prefix}/will"
        with self.client() as watcher:
            self._granted(watcher, topic)
            with self.client(will=topic) as client:
                client.drop()
            self.note(will=watcher.wait(lambda: bool(watcher.messages), self.patience_s))

    def _shared(self) -> None:
        topic, count = f"{self.prefix}/shared", 10
        with self.client() as one, self.client() as two, self.client() as publisher:
            if not all(self._granted(each, f"$share/{self.token}/{topic}") for each in (one, two)):
                self.note("shared", "the subscription is refused", shared=False)
                return
            self._sent(publisher, *(b"%d" % n for n in range(count)), topic=topic)

            def arrived() -> list[bytes]:
                two.wait(lambda: False, 0.02)
                return [got.payload for got in (*one.messages, *two.messages)]

            one.wait(lambda: len(arrived()) >= count, 2.0)
            one.wait(lambda: len(arrived()) > count, _GRACE_S)
            each_once = sorted(arrived()) == sorted(b"%d" % n for n in range(count))
            self.note(shared=each_once)
            if not each_once:
                self.note("shared", f"it is granted, and of {count} messages {len(arrived())} arrive")

    def _overlapping_copies(self) -> None:
        topic, later = f"{self.prefix}/overlap/x", f"{self.prefix}/later"
        with self.client() as client:
            for topic_filter in (f"{self.prefix}/overlap/#", f"{self.prefix}/overlap/+", topic, later):
                self._granted(client, topic_filter)
            self._sent(client, b"x", topic=topic)
            self._sent(client, b"x", topic=later)
            client.wait(lambda: any(got.topic == later for got in client.messages), self.patience_s)
            client.wait(lambda: False, _GRACE_S / 5)
            self.note(overlapping_copies=sum(got.topic == topic for got in client.messages))

    def _spaced_topics(self) -> None:
        topic = f"{self.prefix}/with a space"
        with self.client() as client:
            self._granted(client, f"{self.prefix}/+")
            self._sent(client, b"x", topic=topic)
            came = client.wait(lambda: any(got.topic == topic for got in client.messages), self.patience_s)
            self.note(spaced_topics=came)

    def _drops_counted(self) -> None:
        with self.client() as client:
            if not self._granted(client, DROPPED):
                self.note("drops_counted", "this user may not subscribe to $SYS")
                return
            self.note(drops_counted=client.wait(lambda: bool(client.messages), 1.0))

    def _largest_payload(self) -> None:
        """Go up in fours until one does not arrive, then halve the rest down to a sixteenth."""
        deadline = clock.monotonic() + _LARGE_S
        arrived, refused, size = 0, None, _SMALL
        while size <= _LARGE and refused is None:
            if self._passes(size, deadline):
                arrived, size = size, size * 4
            else:
                refused = size
        while refused is not None and refused - arrived > max(1, arrived // 16):
            size = (arrived + refused) // 2
            if self._passes(size, deadline):
                arrived = size
            else:
                refused = size
        self.note(largest_payload=arrived, refused_payload=refused)

    def _passes(self, size: int, deadline: float) -> bool:
        """Whether a payload of this size comes back; BrokerError where no broker can be said to have refused it."""
        topic = f"{self.prefix}/large"
        with self.client() as client:
            self._granted(client, topic)
            client.publish(topic, bytes(size))
            client.publish(topic, b"")  # a broker that drops the large one still delivers this
            client.wait(lambda: bool(client.messages), max(0.0, deadline - clock.monotonic()))
            if not client.messages and not client.ended:
                raise BrokerError(f"{size} bytes were still under way after {_LARGE_S:g} s in all")
            return bool(client.messages) and len(client.messages[0].payload) == size
