"""Ingest: foreign devices as members of the system. A process of its own, begun by a session with `ingest:`.

Each device is given a member: a status, a description with units, readings that are numbered and kept until they are
recorded. Foreign topics are as they travel, whatever the session's namespace; those of readings are below it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import ether
from ether import clock, codecs, topics
from ether.client import Client
from ether.config import Source
from ether.errors import EtherError, SessionError
from ether.foreign.conveyor import live
from ether.foreign.facts import Alive, Fact, Reader, Taken, Trouble
from ether.foreign.readers import reader_of
from ether.member import Member
from ether.model import About, Message, State
from ether.mqtt import BrokerLimits, Connection, Receipt, Tls

__all__ = ["NAME", "Ingest", "is_device", "main"]

logger = logging.getLogger(__name__)

NAME = "ingest"
_QUEUE = 10_000
_PATIENCE_S = 1.0
"""So long the broker is kept waiting for a place in the queue."""
_OWN_EVERY_S = 1.0
_EVERY_S = 10.0
"""Between repeated statuses of a device."""
_CATCH_UP_S = 5.0
_LEAVE_S = 10.0
_SUBSCRIBE_EACH = 200
"""At least after so many messages what readers want to hear is looked at, at once when nothing waits."""
_RULES = -1
_MOST = 500
"""Devices. Each has a connection, and the embedded broker lets in a thousand, the rest of the laboratory included."""
_LINES, _TOLD = 5, 200
"""So many troubles of a topic, and of so many topics, are told in the log; all are counted."""


@dataclass(slots=True)
class _Source:
    """One entry of `ingest:`, at work."""

    given: Source
    reader: Reader
    number: int
    """Among the entries; the same for all rules, which may tell of one device together."""

    def wants(self, device: str) -> bool:
        """Return whether a device, by what it calls itself, is to be taken in."""
        chosen = not self.given.only or any(fnmatch.fnmatchcase(device, each) for each in self.given.only)
        return chosen and not any(fnmatch.fnmatchcase(device, each) for each in self.given.ignore)


@dataclass(slots=True)
class _Device:
    """A foreign device as a member."""

    member: Member
    about: About
    told: State | None = None
    """What its own availability says; None where it never spoke of it."""


class Ingest:
    """Takes in what foreign devices say. `receive` is for the network thread, everything else for one other."""

    def __init__(self, orders: dict[str, Any]) -> None:
        """Prepare; orders: see `Host`."""
        self._orders = orders
        self._tls = Tls(**orders["tls"]) if orders["tls"] else None
        given = map(Source.model_validate, orders["sources"])
        self._sources = [
            _Source(each, reader_of(each), number if each.name else _RULES) for number, each in enumerate(given)
        ]
        self._devices: dict[tuple[int, str], _Device] = {}
        self._names: set[str] = set(orders["taken"])
        self._owners: dict[str, str] = {}
        """Topic of readings to the name of the device that they come from."""
        self._told: dict[str, list[str]] = {}
        """What was told in the log of a topic."""
        self._work: queue.Queue[tuple[Message, float] | None] = queue.Queue(_QUEUE)
        self._stopping = threading.Event()
        self.member = self._member(NAME, _OWN_EVERY_S)
        self.member.on_message = self._hear
        self._client = Client(self.member.connection, self.member.publisher)
        """Knows who else lives."""
        self.member.describe = lambda: {"queued": self._work.qsize(), "devices": len(self._devices)}
        self.counts = self.member.counts
        self._foreign = Connection(orders["url"], f"{NAME}-foreign-{self.member.boot}", tls=self._tls)
        self._foreign.on_message = self.receive
        self._echo = topics.probe(f"{NAME}-{self.member.boot}")
        self._wanted: set[str] = set()
        self._subscribed: set[str] = set()

    def _member(self, name: str, every: float) -> Member:
        member = Member(self._orders["url"], name, namespace=self._orders["namespace"], every=every, tls=self._tls)
        member.connection.limits = BrokerLimits(**self._orders["limits"])
        return member

    # --- life

    def open(self) -> None:
        """Connect; returns when the broker has granted the subscriptions and nothing can be missed any more."""
        timeout = self._orders["start_timeout"]
        member = self.member
        member.open(timeout)
        member.log_to_topic()
        member.connection.subscribe([topics.command(NAME, "+")])
        self._client.watch()
        if self._orders["recorded"]:
            self._client.wait_until_ready("recorder", timeout)
        self._describe()
        self._foreign.open(timeout)
        self._subscribe()
        self._catch_up()
        member.set_status(State.READY)

    def run(self) -> None:
        """Do the work until told to stop; what had come before is taken in."""
        taken = 0
        while (work := self._work.get()) is not None:
            if work[0].topic != self._echo:
                self._take(*work)
            taken += 1
            if self._work.empty() or taken % _SUBSCRIBE_EACH == 0:  # many documents may come at once
                self._subscribe()

    def _catch_up(self) -> None:
        """Take what the broker has kept for us: descriptions, which may name further topics, where more may be kept.

        All of it has come when a message of our own has, which was sent behind the subscriptions.
        """
        deadline = clock.monotonic() + _CATCH_UP_S
        self._foreign.subscribe([self._echo])
        before: set[str] = set()
        while before != self._subscribed and not self._stopping.is_set():
            before = set(self._subscribed)
            self._foreign.publish(self._echo, b"1", 1)
            while True:
                try:
                    work = self._work.get(timeout=max(0.01, deadline - clock.monotonic()))
                except queue.Empty:
                    logger.warning("%s: the broker did not send back a message of our own; going on without", NAME)
                    return
                if work is None:
                    self._work.put(None)  # told to stop meanwhile
                    return
                if work[0].topic == self._echo:
                    break
                self._take(*work)
            self._subscribe()

    def stop(self, reason: str) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            logger.info("%s: stopping: %s", NAME, reason)
            threading.Thread(target=self._work.put, args=(None,), daemon=True).start()  # it may be full

    def close(self) -> None:
        """Say goodbye for every device, and go."""
        self._foreign.close(1.0)

        def leave(device: _Device) -> None:
            device.member.leave()
            device.member.close()

        leaving = [threading.Thread(target=leave, args=(each,), daemon=True) for each in self._devices.values()]
        for thread in leaving:
            thread.start()
        for thread in leaving:
            thread.join(_LEAVE_S)
        self.member.set_status(State.DISCONNECTED)
        self.member.close()

    def _describe(self) -> None:
        sources = [f"{each.given.name or 'rule'}: {', '.join(each.reader.filters())}" for each in self._sources]
        about = About(
            NAME, class_name="ether.ingest", host=socket.gethostname(), pid=os.getpid(), version=ether.__version__,
            kwargs={"sources": sources},
        )  # fmt: skip
        self.member.set_about(about)

    def _subscribe(self) -> None:
        """Hear all that the readers want to, each message once: brokers differ on subscriptions that overlap."""
        wanted = {each for source in self._sources for each in source.reader.filters()}
        if wanted == self._wanted:
            return
        self._wanted = wanted
        wide = topics.widest(sorted(each for each in wanted if topics.is_filter(each)))
        heard = {*wide, *(each for each in wanted if not topics.matches_any(wide, each) and not topics.is_filter(each))}
        self._foreign.subscribe(sorted(heard - self._subscribed))
        self._foreign.unsubscribe(sorted(self._subscribed - heard))
        self._subscribed = heard

    # --- incoming, in the network threads

    def _hear(self, message: Message, _receipt: Receipt | None) -> None:
        reserved = topics.parse(message.topic)
        if reserved is not None and reserved.kind == "command" and reserved.name == NAME and reserved.verb == "stop":
            self.stop("told to stop")
        else:
            self._client.take(message)

    def receive(self, message: Message, _receipt: Receipt | None = None) -> None:
        """Queue a foreign message; the broker waits a little while there is no room, then it is dropped and counted."""
        if message.topic != self._echo:
            if topics.is_reserved(topics.strip(self._orders["namespace"], message.topic)):
                return
            self.counts["received"] += 1
        try:
            self._work.put((message, clock.now()), timeout=_PATIENCE_S)
        except queue.Full:
            self.counts["dropped"] += 1

    # --- work

    def _take(self, message: Message, now: float) -> None:
        if self._try(message, self._is_ours, message):
            self.counts["ours"] += 1  # whoever signs in our envelope is no foreigner; our own readings above all
            return
        rejected = self.counts["rejected"]
        known = False
        for source in self._sources:
            facts = self._try(message, source.reader.take, message, now)
            known = known or facts is not None
            for fact in facts or ():
                self._try(message, self._settle, source, message, fact, now)
        self.counts["handled" if known or self.counts["rejected"] > rejected else "unknown"] += 1

    def _try(self, message: Message, do: Callable[..., Any], *arguments: Any) -> Any:
        """Do something for a message and return what it returns; None where the message is not fit for it."""
        try:
            return do(*arguments)
        except EtherError as exc:
            self._trouble(message.topic, str(exc))
        except Exception as exc:
            logger.debug("%s: message on %r", NAME, message.topic, exc_info=exc)
            self._trouble(message.topic, f"not understood ({type(exc).__name__}: {exc})")
        return None

    @staticmethod
    def _is_ours(message: Message) -> bool:
        return codecs.envelope_of(message.payload) is not None

    def _settle(self, source: _Source, message: Message, fact: Fact, now: float) -> None:
        if isinstance(fact, Trouble):
            self._trouble(message.topic, fact.what)
        elif not source.wants(fact.device):
            self.counts["unwanted"] += 1
        elif isinstance(fact, Alive):
            self._lives(self._device(source, fact.device), fact)
        elif message.retain:
            self.counts["replays"] += 1  # what the broker kept, not what was measured now
        else:
            self._publish(self._device(source, fact.device), source, fact, now)

    def _device(self, source: _Source, given: str) -> _Device:
        """Return the member of a device; it is made when it is first heard of."""
        device = self._devices.get((source.number, given))
        if device is None:
            if len(self._devices) >= _MOST:
                raise SessionError(f"{_MOST} devices are taken in already; the device {given!r} is left out")
            name = self._name(source.number, given)
            member = self._member(name, _EVERY_S)
            if (outbox := self._orders["outbox"]) is not None:
                folder = str(Path(outbox["folder"]).parent / name)
                member.publisher.keep_by({**outbox, "folder": folder})
            about = About(
                name, class_name=f"foreign.{source.given.name or 'rule'}", version=ether.__version__,
                kwargs={"id": given, "by": NAME},
            )  # fmt: skip
            device = _Device(member, about)
            try:
                member.open(self._orders["start_timeout"])
            except EtherError:
                self._names.discard(name)  # its next message tries again
                raise
            self._devices[source.number, given] = device
            member.set_about(about)
            if member.publisher.outbox is not None:
                member.publisher.outbox.begin()
            logger.info("%s: %s is there, taken in as %s", NAME, given, name)
        return device

    def _name(self, number: int, given: str) -> str:
        """Return a name for a device that nobody else has."""
        name = topics.slug(given)
        if name in self._names or self._is_anothers(name):
            mark = sha256(f"{number} {given}".encode()).hexdigest()[:4]
            logger.error("%s: the name %s is taken; the device %r is called %s-%s", NAME, name, given, name, mark)
            name = f"{name}-{mark}"
        self._names.add(name)
        return name

    def _is_anothers(self, name: str) -> bool:
        """Return whether somebody else of this name lives: a microcontroller, an object that a script has added."""
        status, about = self._client.statuses.get(name), self._client.abouts.get(name)
        lives = status is not None and status.state not in (State.LOST, State.DISCONNECTED)
        return lives and (about is None or not is_device(about))

    @staticmethod
    def _lives(device: _Device, fact: Alive) -> None:
        device.told = fact.state
        if (device.member.state, device.member.detail) != (fact.state, fact.detail):
            device.member.set_status(fact.state, fact.detail)

    def _publish(self, device: _Device, source: _Source, fact: Taken, now: float) -> None:
        member = device.member
        prefix = f"{source.given.prefix}/" if source.given.prefix else ""
        topic = topics.check_topic(prefix + fact.topic.replace("{dev}", member.name))
        owner = self._owners.setdefault(topic, member.name)
        if owner != member.name:
            self.counts["refused"] += 1
            self._tell(logging.ERROR, topic, f"{topic} comes from {owner}; readings of {member.name} for it are left "
                                             "out: give each device a topic of its own, as by `{dev}`")  # fmt: skip
            return
        self._learn(device, topic, fact)
        gone = member.state in (State.LOST, State.DISCONNECTED)
        if gone or (member.state is State.INIT and device.told is None):
            member.set_status(State.READY)  # whoever speaks lives
        member.publisher.publish(topic, fact.fields, t=now if fact.time is None else fact.time)
        self.counts["published"] += 1

    @staticmethod
    def _learn(device: _Device, topic: str, fact: Taken) -> None:
        """Have the description say what a reading holds, before it comes."""
        known = device.about.publishes.get(topic, {"fields": {}})["fields"]
        news = {}
        for name in fact.fields:
            said = fact.schema.get(name, {})
            before = known.get(name)
            now = {**(before or {}), **said}
            if before is not None and before.get("type") != said.get("type"):
                now.pop("type", None)  # it is of several
            if now != before:
                news[name] = now
        if news:
            publishes = {**device.about.publishes, topic: {"fields": {**known, **news}}}
            device.about = replace(device.about, publishes=publishes)
            device.member.set_about(device.about)

    # --- what is not as it should be

    def _trouble(self, topic: str, what: str) -> None:
        self.counts["rejected"] += 1
        self._tell(logging.WARNING, topic, f"message on {topic!r}: {what}")

    def _tell(self, level: int, topic: str, line: str) -> None:
        """Log a line, once, and not too many of them: a device may say the same thing wrong for years, in new words."""
        told = self._told.setdefault(topic, []) if len(self._told) < _TOLD else self._told.get(topic)
        if told is None or line in told or len(told) == _LINES:
            return
        told.append(line)
        end = (
            "; further ones are only counted, as `rejected` and `refused` of its status" if len(told) == _LINES else ""
        )
        logger.log(level, "%s: %s%s", NAME, line, end)


def is_device(about: About) -> bool:
    """Return whether a description is of a foreign device that was taken in."""
    return isinstance(about.kwargs, dict) and about.kwargs.get("by") == NAME


def main() -> None:
    """Run as the ingest process, until told to stop."""
    _take_more_files()
    live(NAME, Ingest)


def _take_more_files() -> None:
    """Have as many files open as the system lets us: a device takes five, and the usual limit is 1,024."""
    try:
        import resource
    except ImportError:
        return  # no POSIX
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
