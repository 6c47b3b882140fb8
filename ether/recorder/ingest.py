"""Ingest: subscribe, journal, then acknowledge and confirm. It never parses data and imports neither h5py nor NumPy.

One message's way: the network thread stamps it into a queue; the committer thread appends the queue to the journal
every 45 ms or 4 MB, makes it durable, and only then acknowledges it to the broker and confirms it to its publisher.
The main thread watches over the writer process and the end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ether import clock, codecs, process, topics
from ether.errors import BrokerError, EtherError, JournalError, PayloadError
from ether.journal import Journal, Record
from ether.member import Member, new_boot
from ether.model import About, Envelope, Message, State
from ether.mqtt import BrokerLimits, Receipt, Tls
from ether.outbox import hand_over, let_go, outbox_folder
from ether.recorder.account import NOBODY, Account
from ether.recorder.disk import Disk
from ether.recorder.entries import (
    ANSWERS_KEPT,
    DUP,
    LOSSES,
    QOS,
    RESENT,
    RETAIN,
    Entry,
    Kind,
    data_topic,
    head,
    journal_folder,
    note,
    unpack,
)
from ether.recorder.marker import DISK_TROUBLE, Marker, settle
from ether.recorder.parts import Resume, is_taken
from ether.recorder.pings import Pings
from ether.recorder.redact import redacted

__all__ = ["Ingest", "WriterProcess", "beside", "main"]

logger = logging.getLogger(__name__)

NAME = "recorder"
COMMIT_S = 0.045
"""A commit waits so long for more to come: one sync then covers them all."""
COMMIT_BYTES = 4 << 20
QUEUE_BYTES = 64 << 20
"""With so much waiting for the disk we stop reading from the broker; nothing is ever dropped."""
CONFIRM_S = 0.08
_GATHER_S = 0.04
_RETRY_S = 0.5
_PRESSURE_S = 10.0
_QUIET_S, _DRAIN_S = 0.05, 1.0
"""So long a broker that has nothing more for us is silent; and so long we wait for that, at most."""
_SLOW_S = 1.0
"""A disk that keeps messages waiting for longer is slow."""
_DISK_S = 1.0
_HOLE_S = 1.0
_COUNT_S = 1.0
_HOLES_SAID = 100
_ORPHAN_S = 7.0
_GOODBYES_S = 2.5
_SEAL_S = 600.0
_OVERHEAD = 200
_ROW_BYTES = 100
"""What a message takes in a file beside its payload."""
_RESERVED_FILTER = "ether/#"


class Item(NamedTuple):
    """One received message, on its way to the journal."""

    topic: str
    payload: bytes
    flags: int
    t_recv: int
    t_mono: int
    receipt: Receipt | None


class Rotation(NamedTuple):
    """When a new part of a recording begins: at a size, after a time, whichever comes first; None for never."""

    size: int | None = None
    """Bytes of messages."""
    every: float | None = None
    """Seconds."""


class _Filled:
    """How far the current part is filled."""

    def __init__(self) -> None:
        self.bytes = 0
        self.since_ns = clock.now_ns()

    def add(self, size: int, t_recv: int) -> None:
        if not self.bytes:
            self.since_ns = t_recv
        self.bytes += size + _ROW_BYTES


class Ingest:
    """Takes messages, makes them durable, acknowledges and confirms them. `take` is for the network thread.

    Args:
        journal: where they go; what it holds already must have been handed to `replayed`.
        wanted: filters of the data topics to record.
        exclude: filters of those not to.
        acknowledge: called with receipts of messages that are durable.
        confirm: called with publisher, boot, and what `ether/stored/<name>` says.
        stop: called once when the command to stop is durable, and everything queued before it.
        answer: called with topic and content of what a client asked to be told when its annotation is durable.
        ping: called with topic and payload to ask a device what its clock shows.
        trouble: called with one line when the disk refuses, and with "" when it takes again.
        rotate: when a new part of the recording begins.
        full: returns whether so little of the disk is left that nothing more is to be taken.
        name: who is told to stop, and is asked; only the one called `recorder` confirms, others just listen.
        receive_maximum: with so many messages unacknowledged the broker sends no more: waiting for more is in vain.
    """

    def __init__(
        self,
        *,
        wanted: list[str],
        exclude: list[str],
        acknowledge: Callable[[list[Receipt]], None],
        confirm: Callable[[str, dict[str, Any]], None],
        stop: Callable[[], None],
        answer: Callable[[str, dict[str, Any]], None] = lambda topic, content: None,
        ping: Callable[[str, bytes], bool] = lambda topic, payload: False,
        trouble: Callable[[str], None] = lambda reason: None,
        rotate: Rotation = Rotation(),  # noqa: B008 - a tuple
        full: Callable[[], bool] = lambda: False,
        name: str = NAME,
        receive_maximum: int = BrokerLimits().receive_maximum,
    ) -> None:
        self.name = name
        self._receive_maximum = receive_maximum
        self.confirms = name == NAME
        self.wanted = wanted
        self.exclude = exclude
        self.account = Account()
        self.account.confirms = self.confirms
        self.counts: Counter[str] = Counter()
        self._acknowledge = acknowledge
        self._confirm = confirm
        self._stop = stop
        self._answer = answer
        self.pings = Pings(ping, lambda sample: self.write(Kind.CLOCK, sample))
        self._trouble = trouble
        self._rotate = rotate
        self._full = full
        self._commit_s: deque[tuple[float, float]] = deque()
        """When the last commits ended, and how long each took."""
        self._part = _Filled()
        self._journal: Journal | None = None
        self._queue: deque[Item | tuple[bytes, bytes]] = deque()
        self._queued_bytes = 0
        self._waiting_since: float | None = None
        self._settled_at = 0.0
        """Since when the oldest message waits for the disk, about; on the monotonic clock."""
        self._change = threading.Condition()
        self._closing = False
        self._finished = False
        self._again: Counter[tuple[str, str, str]] = Counter()
        self._receipts: list[Receipt] = []
        self._retained: dict[str, bytes] = {}
        self._states: dict[str, tuple[Any, ...]] = {}
        self._changed: set[tuple[str, str, str]] = set()
        self._watermarks: dict[tuple[str, str, str], int] = {}
        self._holes: dict[tuple[str, str, str], tuple[float, list[list[int]]]] = {}
        self._confirmed = 0.0
        self._counted = 0.0
        self._asked: dict[tuple[str, str], Any] = {}
        self._answers: list[tuple[str, str]] = []
        self._annotations: dict[str, None] = {}
        self._troubled = ""
        self._stop_seen = False
        self._renew = False
        self._choices: dict[str, bool] = {}
        self._thread: threading.Thread | None = None

    # Recovery

    def take_over(self, carry: dict[str, Any]) -> None:
        """Take over what is known from the parts that are sealed; the journal may not go back so far any more."""
        self.account = Account.restored(carry["account"])
        self.account.confirms = self.confirms
        self._renew = True
        self._annotations = dict.fromkeys(carry["answered"])
        self.counts.update(carry["counts"])
        self.counts["duplicates"] = self.account.duplicates()

    def replayed(self, record: Record) -> None:
        """Take into account a record that the journal held when it was opened."""
        entry = unpack(record)
        if entry.kind == Kind.MESSAGE:
            self.counts["recorded"] += 1
            self.counts["bytes"] += len(entry.payload)
            self._part.add(len(entry.payload), entry.t_recv)
            self._note(entry)
        elif entry.kind == Kind.ROLL:
            self._part = _Filled()
        elif entry.kind == Kind.DUPLICATES:
            for by, boot, topic, count in json.loads(entry.payload):
                self.account.again(by, boot, topic, count)
                self.counts["duplicates"] += count

    def _note(self, entry: Entry) -> None:
        reserved = topics.parse(entry.topic)
        if reserved is None:
            envelope = codecs.numbering(entry.payload)
            self.account.take(entry.topic, envelope, entry.flags & QOS)
            if envelope is not None:
                self._changed.add((envelope.by, envelope.b, entry.topic))
            return
        if reserved.kind == "status":
            self._heard(reserved.name, entry.payload, bool(entry.flags & RETAIN))
        elif reserved.kind in ("about", "run", "session"):
            self._retained[entry.topic] = entry.payload
            if reserved.kind == "about":
                self._described(reserved.name, entry.payload)
        elif reserved.kind == "annotation":
            self._is_first(entry.payload)

    # The network thread

    def take(self, message: Message, receipt: Receipt | None) -> None:
        """Queue a message; blocks while too much waits for the disk."""
        flags = message.qos | (RETAIN if message.retain else 0) | (DUP if message.dup else 0)
        item = Item(message.topic, message.payload, flags, clock.now_ns(), clock.monotonic_ns(), receipt)
        with self._change:
            while self._queued_bytes > QUEUE_BYTES and not self._closing:
                self._change.wait(1.0)
            if self._closing:
                return  # not acknowledged: the broker and the publisher keep it
            self._queue.append(item)
            self._queued_bytes += len(item.payload) + _OVERHEAD
            if self._waiting_since is None:
                self._waiting_since = clock.monotonic()
            if len(self._queue) == 1 or self._queued_bytes >= COMMIT_BYTES:
                self._change.notify_all()

    def quiet_s(self) -> float:
        """Return for how long nothing has come since all that came was stored and acknowledged; 0 where some is not."""
        with self._change:
            return 0.0 if self._queue or self._queued_bytes else clock.monotonic() - self._settled_at

    def confirm_again(self) -> None:
        """Confirm everything anew, as after a reconnect."""
        with self._change:
            self._renew = True
            self._change.notify_all()

    # The committer thread

    def start(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def close(self, reason: str | None, timeout: float, connected: bool = True) -> bool:
        """Commit what is queued and the end itself, and stop; False where the disk did not take it in time.

        Args:
            reason: goes into the journal; None for no end in order.
            timeout: seconds.
            connected: the broker was at hand to the last.
        """
        with self._change:
            if reason is not None:
                self._queue.append(note(Kind.END, {"reason": reason, "connected": connected}))
            self._closing = True
            self._change.notify_all()
        assert self._thread is not None
        self._thread.join(timeout)
        return self._finished

    def write(self, kind: Kind, content: Any) -> None:
        """Queue an entry of the recorder's own."""
        with self._change:
            if not self._closing:
                self._queue.append(note(kind, content))
                self._change.notify_all()

    def _run(self) -> None:
        assert self._journal is not None
        while not self._finished:
            with self._change:
                self._await_work()
                batch, self._queue = self._queue, deque()
                closing = self._closing
            size = 0
            for item in batch:
                if isinstance(item, Item):
                    size += len(item.payload) + _OVERHEAD
                    self._append(item)
                else:
                    self._append_duplicates()  # before the end, if this is it
                    self._journal.append(*item)
            self._append_duplicates()
            if not closing and self._is_full():
                self._journal.append(*note(Kind.ROLL, {}))
                self._part = _Filled()
            while (self._journal.pending_bytes or self._receipts) and not self._commit():
                if self._closing:
                    return  # what is not durable was never acknowledged: its publishers keep it
            self._send_answers()
            with self._change:
                self._queued_bytes -= size
                self._settled_at = clock.monotonic()
                self._waiting_since = self._settled_at if self._queue else None
                self._change.notify_all()
            self._confirm_changed()
            if self._stop_seen:
                self._stop_seen = False
                self._stop()
            self._finished = closing

    def _is_full(self) -> bool:
        """Return whether it is time for a new part; an empty one is never ended."""
        size, every = self._rotate
        if not self._part.bytes:
            return False
        lasted_s = (clock.now_ns() - self._part.since_ns) / 1e9
        return (size is not None and self._part.bytes >= size) or (every is not None and lasted_s >= every)

    def _await_work(self) -> None:
        """Wait for something to commit, then a little for more; wake up for confirmations that are due."""
        while not self._queue and not self._closing:
            left = None
            if self._changed or self._holes or self._renew:
                left = self._confirmed + (_HOLE_S if not self._changed and not self._renew else CONFIRM_S)
                left -= clock.monotonic()
                if left <= 0:
                    return
            self._change.wait(left)
        deadline = clock.monotonic() + COMMIT_S
        while self._queued_bytes < COMMIT_BYTES and len(self._queue) < self._receive_maximum and not self._closing:
            left = deadline - clock.monotonic()
            if left <= 0 or not self._change.wait(left):
                break

    def _append(self, item: Item) -> None:
        """Append one message, unless it is a replay, a heartbeat, excluded, or has been stored already."""
        assert self._journal is not None
        if item.receipt is not None:
            self._receipts.append(item.receipt)
        topic, resent = data_topic(item.topic)
        flags = item.flags | (RESENT if resent else 0)
        payload = item.payload
        reserved = topics.parse(topic)
        if reserved is None:
            if flags & RETAIN or not self._records(topic):
                return
            envelope = codecs.numbering(payload)
            if envelope is not None and envelope.k and self._append_part(item, topic, envelope):
                return
            new = self.account.take(topic, envelope, flags & QOS)
            if envelope is not None:
                if not new:
                    self._again[envelope.by, envelope.b, topic] += 1
                    self.counts["duplicates"] += 1
                    return
                self._changed.add((envelope.by, envelope.b, topic))
                if envelope.ms is not None:
                    self.pings.heard(envelope.by, envelope.b)
        elif reserved.kind == "pong":
            self.pings.answered(reserved.name, payload, item.t_recv, item.t_mono)
            return
        elif not self._is_news(topic, reserved, payload, flags):
            return
        elif reserved.kind == "about":
            payload = _without_secrets(payload)
        self._journal.append(head(Kind.MESSAGE, flags, item.t_recv, item.t_mono, topic), payload)
        self._part.add(len(payload), item.t_recv)
        self.counts["recorded"] += 1
        self.counts["bytes"] += len(payload)

    def _append_part(self, item: Item, topic: str, envelope: Envelope) -> bool:
        """Append what is new of a batch that overlaps with an earlier one; False where it is all new, or none of it.

        A device may cut its batches differently when it sends again.
        """
        spans = self.account.lacking(topic, envelope)
        if not spans or spans == [[envelope.n, envelope.n + codecs.readings_in(envelope) - 1]]:
            return False
        try:
            parts = [codecs.part(item.payload, first, last) for first, last in spans]
        except PayloadError:
            return False  # it cannot be told apart: better twice than not at all
        for part in parts:
            self._append(item._replace(payload=part, receipt=None))
        return True

    def _records(self, topic: str) -> bool:
        """Return whether a data topic is wanted."""
        chosen = self._choices.get(topic)
        if chosen is None:
            chosen = topics.matches_any(self.wanted, topic) and not topics.matches_any(self.exclude, topic)
            if len(self._choices) < 100_000:
                self._choices[topic] = chosen
        return chosen

    def _is_news(self, topic: str, reserved: topics.Reserved, payload: bytes, flags: int) -> bool:
        """Return whether a message of the reserved tree says something new."""
        if reserved.kind in ("stored", "probe"):
            return False
        if reserved.kind == "command" and reserved.name == self.name and reserved.verb == "confirm":
            self._take_question(payload)
            return False
        if reserved.kind == "command" and reserved.name == self.name and reserved.verb == "stop":
            self._stop_seen |= not flags & RETAIN
        if reserved.kind == "status":
            return self._heard(reserved.name, payload, bool(flags & RETAIN))
        if reserved.kind in ("about", "run", "session"):
            if reserved.kind == "about" and b'"clock"' in payload:
                self._take_clock(reserved.name, payload)
            if flags & RETAIN and self._retained.get(topic) == payload:
                return False
            self._retained[topic] = payload
            if reserved.kind == "about":
                self._described(reserved.name, payload)
        elif flags & RETAIN:
            return False
        elif reserved.kind == "annotation":
            return self._is_first(payload, answer=True)
        return True

    def _take_question(self, payload: bytes) -> None:
        """A publisher asks what is durable: it is told with this commit, all of it, and what is missing at once."""
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a stranger's words
            question = json.loads(payload)
            by, boot = str(question["by"]), str(question["boot"])
            self._asked[by, boot] = question["id"]
            for topic, mark in dict(question.get("from", {})).items():
                track = self.account.tracks.get((by, boot, topic))
                if track is not None and type(mark) is int:
                    track.mark = max(mark, track.mark or 0)

    def _is_first(self, payload: bytes, answer: bool = False) -> bool:
        """Return whether an annotation is new, by the id that it has if its sender waits for an answer."""
        if b'"reply_to"' not in payload:
            return True
        try:
            content = json.loads(payload)
            identity, reply_to = content["id"], content["reply_to"]
        except (ValueError, TypeError, KeyError):
            return True
        if not (isinstance(identity, str) and isinstance(reply_to, str) and topics.is_reply(reply_to)):
            return True
        if answer and self.confirms:
            self._answers.append((reply_to, identity))
        first = identity not in self._annotations
        self._annotations[identity] = None
        if len(self._annotations) > ANSWERS_KEPT:
            self._annotations.pop(next(iter(self._annotations)))
        return first

    def pressure(self) -> dict[str, float]:
        """Return how the disk keeps up: the longest commit of the last seconds, how long and how much waits for it."""
        with self._change:
            since, waiting = self._waiting_since, self._queued_bytes
        longest = max((took for _, took in list(self._commit_s)), default=0.0)
        behind = 0.0 if since is None else clock.monotonic() - since
        return {
            "commit_ms": round(1e3 * longest, 1),
            "behind_ms": round(1e3 * behind) if behind > 2 * COMMIT_S else 0,
            "waiting_bytes": waiting if behind > 2 * COMMIT_S else 0,
        }

    def _send_answers(self) -> None:
        """Tell those who wait that their annotations are durable."""
        answers, self._answers = self._answers, []
        for reply_to, identity in answers:
            self._answer(reply_to, {"id": identity, "status": "success", "result": "stored"})

    def _take_clock(self, name: str, payload: bytes) -> None:
        """A device describes a clock of its own: it is asked from now on."""
        with contextlib.suppress(ValueError, AttributeError):
            content = json.loads(payload)
            if content.get("clock"):
                self.pings.heard(name, str(content.get("boot", "")))

    def _heard(self, name: str, payload: bytes, replay: bool) -> bool:
        """Take a status into account; False for a heartbeat or an unchanged replay."""
        try:
            status = json.loads(payload)
        except ValueError:
            status = {"state": payload.decode(errors="replace")}
        if not isinstance(status, dict):
            return True
        counts = status.get("counts")
        losses = [counts.get(name) for name in LOSSES] if isinstance(counts, dict) else []
        said = (status.get("state"), status.get("boot"), status.get("detail"), str(status.get("last")), str(losses))
        if self._states.get(name) == said:
            return False
        self._states[name] = said
        if status.get("state") in ("lost", "disconnected"):
            self.pings.gone(name)
        self.account.heard(name, status, replay)
        if isinstance(last := status.get("last"), dict):  # what is missing of it is to be told
            told = ((name, str(status.get("boot", "")), topic) for topic in last)
            self._changed.update(key for key in told if key in self.account.tracks)
        return True

    def _described(self, name: str, payload: bytes) -> None:
        with contextlib.suppress(ValueError):
            about = json.loads(payload)
            if isinstance(about, dict):
                self.account.described(name, about)

    def _append_duplicates(self) -> None:
        if self._again:
            assert self._journal is not None
            self._journal.append(*note(Kind.DUPLICATES, [[*key, count] for key, count in self._again.items()]))
            for (by, boot, topic), count in self._again.items():
                self._changed.add((by, boot, topic))
                self._watermarks.pop((by, boot, topic), None)  # it did not hear us: say it again
                logger.debug("%s: %d messages on %r came again", by, count, topic)
            self._again.clear()

    def _commit(self) -> bool:
        """Make the batch durable, then acknowledge it; False where the disk refused, which is tried again."""
        assert self._journal is not None
        started = clock.monotonic()
        try:
            if self._full() and not self._closing:  # what is left is for the end, and for the file
                raise JournalError(errno.ENOSPC, "the disk has no more than the reserve left")
            self._journal.commit()
        except JournalError as exc:
            if str(exc) != self._troubled:
                self._troubled = str(exc)
                logger.error("recorder: nothing can be stored: %s", exc)
                self._trouble(f"nothing can be stored: {exc}")
            with self._change:
                self._change.wait(_RETRY_S)
            return False
        ended = clock.monotonic()
        self._commit_s.append((ended, ended - started))
        while ended - self._commit_s[0][0] > _PRESSURE_S:
            self._commit_s.popleft()
        receipts, self._receipts = self._receipts, []
        if receipts:
            self._acknowledge(receipts)
        if self._troubled:
            self._troubled = ""
            logger.warning("recorder: the disk takes data again; nothing was lost meanwhile")
            self._journal.append(*note(Kind.EVENT, {"level": "WARNING", "message": "the disk was full or failing"}))
            self._trouble("")
        return True

    def _confirm_changed(self) -> None:
        """Tell publishers up to where their messages are durable, and what is missing; a few times a second at most."""
        now = clock.monotonic()
        if now - self._confirmed < CONFIRM_S and not self._closing and not self._asked:
            return
        self._confirmed = now
        if self._renew:
            self._renew = False
            self._watermarks.clear()
            self._changed.update(key for key in self.account.tracks if key[:2] != NOBODY)
        changed, self._changed = self._changed, set()
        changed.update(key for key, (since, _) in self._holes.items() if now - since >= _HOLE_S)
        asked, self._asked = self._asked, {}
        if asked:
            changed.update(key for key in self.account.tracks if key[:2] in asked)
        if not (changed or asked):
            return
        if self.confirms:
            for (by, boot), said in self._durable(changed, asked, now).items():
                self._confirm(by, {"boot": boot, **said})
        if self._closing or now - self._counted >= _COUNT_S:  # it takes a look at every topic
            self._counted = now
            self.counts["lost"] = self.account.missing()

    def _durable(
        self, changed: set[tuple[str, str, str]], asked: dict[tuple[str, str], Any], now: float
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what is to be said to each publisher: new watermarks, and holes that have stayed open for a while.

        Who has asked is told everything.
        """
        said: dict[tuple[str, str], dict[str, Any]] = {
            key: {"topics": {}, "asked": question} for key, question in asked.items()
        }
        for key in changed:
            track = self.account.tracks[key]
            content = said.setdefault(key[:2], {"topics": {}})
            watermark = track.watermark()
            if watermark is not None:
                if key[:2] in asked or self._watermarks.get(key) != watermark:
                    self._watermarks[key] = watermark
                    content["topics"][key[2]] = watermark
                if track.spans[0][0] and track.mark is None:
                    content.setdefault("first", {})[key[2]] = track.spans[0][0]
            holes = track.wanted()
            since, _ = self._holes.pop(key, (now, holes))
            if holes:
                if key[:2] in asked or now - since >= _HOLE_S:
                    content.setdefault("missing", {})[key[2]] = holes[:_HOLES_SAID]
                    content.setdefault("seen", {})[key[2]] = track.spans[-1][1] if track.spans else -1
                    since = now
                self._holes[key] = (since, holes)
        return {
            key: content
            for key, content in said.items()
            if content["topics"] or "missing" in content or "asked" in content
        }


class WriterProcess:
    """The HDF5 writer as a child: started, watched, started again; a message that keeps killing it is set aside.

    Args:
        file: the public recording.
        journal: the folder it follows.
        note: called with kind and content of journal entries about it.
        alarm: called with one line when it keeps dying, and with "" when it runs again.
    """

    module = "ether.recorder.writer"
    DEADLY = 3

    def __init__(
        self,
        file: Path,
        journal: Path,
        note: Callable[[Kind, Any], None],
        alarm: Callable[[str], None] = lambda reason: None,
        log_level: str = "INFO",
    ) -> None:
        self.file = file
        self.journal = journal
        self.raw_only: set[int] = set()
        self.deaths = 0
        self._note = note
        self._alarm = alarm
        self._log_level = log_level
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths_at: Counter[int] = Counter()
        self._careful: tuple[int, int] | None = None
        self._started = 0.0
        self._next_start = 0.0
        self._alarmed = False

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        self._child = process.spawn(self.module, "recorder-writer")
        self._started = clock.monotonic()
        orders = {
            "file": str(self.file), "journal": str(self.journal), "raw_only": sorted(self.raw_only),
            "careful": self._careful, "log_level": self._log_level,
        }  # fmt: skip
        try:
            process.give_orders(self._child, orders)
        except BrokenPipeError:
            logger.debug("the writer died before it had its orders")

    def watch(self) -> bool:
        """Look after the child; True when it has ended in order."""
        now = clock.monotonic()
        if self._child is None:
            if now >= self._next_start:
                self.start()
            return False
        code = self._child.poll()
        if code is None:
            if self._alarmed and now - self._started > 30:
                self._alarmed = False
                self._alarm("")
            return False
        self._let_go()
        if code == 0:
            return True
        self._died(code, now)
        return False

    def _let_go(self) -> None:
        if self._child is not None and self._child.stdin is not None:
            with contextlib.suppress(OSError):  # orders it did not live to read
                self._child.stdin.close()
        self._child = None

    def _died(self, code: int, now: float) -> None:
        """Find out what it died of, and start it again after a while; the journal has everything."""
        self.deaths += 1
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        at = Marker.read(self.journal / "writer.at")
        if at is not None and at[0] == at[1] and code != DISK_TROUBLE:
            self._deaths_at[at[0]] += 1
            if self._deaths_at[at[0]] >= self.DEADLY:
                self.raw_only.add(at[0])
                self._note(Kind.RAW_ONLY, {"number": at[0]})
        self._careful = at or self._careful
        message = f"the HDF5 writer died ({how}) and is started again; the journal has everything"
        logger.warning("recorder: %s", message)
        self._note(Kind.EVENT, {"level": "WARNING", "message": message})
        quick = now - self._started < 30
        self._next_start = now + (min(5.0, 0.2 * self.deaths) if quick else 0.0)
        if self.deaths >= self.DEADLY and quick and not self._alarmed:
            self._alarmed = True
            self._alarm(f"the HDF5 writer keeps dying ({how}); everything is in the journal")

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._let_go()


class Recorder:
    """The recorder process: member of the system, ingest, writer, and their end in order."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.file = Path(given["file"])
        self.journal_folder = journal_folder(self.file)
        if is_taken(self.file) and not self.journal_folder.exists():
            self.file = beside(self.file)  # what is sealed is never touched again
            self.journal_folder = journal_folder(self.file)
        self.wanted: list[str] = given.get("topics") or [topics.ALL]
        self.name: str = given.get("name") or NAME
        self.stopping = threading.Event()
        self.deadline: float | None = None
        self.reason = "stop"
        self._alarms: dict[str, str] = {}
        self._warnings: dict[str, tuple[float, str]] = {}
        """Kind to since when and what: all alarms, and what does not yet keep us from storing."""
        self._disk_seen = 0.0
        self._alarm_told = b""
        self.disk = Disk(self.file.parent, int(given.get("reserve") or 0))
        self._finished = False
        boot = new_boot()
        tls = given.get("tls")
        namespace = given.get("namespace", "")
        self.client_id = (
            f"{self.name}-{namespace.replace('/', '-')}-{self.file.stem}"[-60:].encode("ascii", "replace").decode()
        )
        self.member = Member(
            given["url"], self.name, namespace=namespace, boot=boot, persistent=True, manual_ack=True,
            client_id=self.client_id, tls=Tls(**tls) if tls else None,
        )  # fmt: skip
        self.member.connection.gather_s = _GATHER_S
        self.member.connection.limits = limits = BrokerLimits(**given.get("limits") or {})
        self.ingest = Ingest(
            wanted=self.wanted,
            exclude=given.get("exclude") or [],
            acknowledge=self.member.connection.acknowledge,
            confirm=self._publish_stored,
            stop=self._stop_commanded,
            answer=self._publish_answer,
            ping=self._publish_ping,
            trouble=lambda reason: self._set_alarm("disk", reason),
            rotate=Rotation(**self.given.get("rotate") or {}),
            full=self._disk_is_full,
            name=self.name,
            receive_maximum=limits.receive_maximum,
        )
        self.writer = WriterProcess(
            self.file, self.journal_folder, self.ingest.write, lambda reason: self._set_alarm("writer", reason),
            given.get("log_level", "INFO"),
        )  # fmt: skip

    def run(self, ready: Callable[[Path], None] = lambda file: None) -> int:
        """Record until told to stop; return the exit code.

        Args:
            ready: called with the file once it records.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.journal_folder.exists():
            settle(self.journal_folder)
        resume = Resume.load(self.journal_folder)
        if resume.carry:
            self.ingest.take_over(resume.carry)
        journal = Journal(
            self.journal_folder,
            segment_bytes=int(self.given.get("max_segment_bytes") or 64 << 20),
            replay=self.ingest.replayed,
            start=resume.start,
        )
        with journal:
            self._begin(journal)
            ready(self.file)
            while not self.stopping.wait(0.1):
                self.writer.watch()
                self.ingest.pings.send_due()
                self._watch_disk()
            code = self._end()
        if code == 0:
            # Left by the sealer only where its removal was hindered; the content is proven to be in the file.
            shutil.rmtree(self.journal_folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                outbox_folder(self.file).rmdir()  # where the session's process, whose it is, was killed
        self._goodbye(code)
        return code

    def _begin(self, journal: Journal) -> None:
        self.ingest.start(journal)
        host, pid = socket.gethostname(), os.getpid()
        facts = {"boot": self.member.boot, "host": host, "pid": pid, "file": str(self.file)}
        facts |= {"name": self.name, "confirms": self.ingest.confirms}
        keys = ("session", "provenance", "topics", "exclude")
        self.ingest.write(Kind.SESSION, {**{key: self.given.get(key) for key in keys}, **facts})
        for damage in journal.recovery.damage:
            self.ingest.write(Kind.EVENT, {"level": "ERROR", "message": f"journal damaged: {damage}"})
        if journal.recovery.records:
            logger.info("recorder: goes on with %d records of its journal", journal.recovery.records)
        self.writer.start()
        member = self.member
        member.on_message = self.ingest.take
        member.on_up = self._came_up
        member.describe = lambda: {
            **self.ingest.counts, **self.ingest.account.levels(), **self.ingest.pressure(),
            "writer_deaths": self.writer.deaths, "disk_free": self.disk.free,
            "disk_left_s": round(self.disk.seconds_left or 0),
        }  # fmt: skip
        member.set_about(
            About(
                self.name, class_name="ether.recorder", host=host, pid=pid,
                subscribes={each: {"records": True} for each in self.wanted},
                kwargs={
                    "records": self.wanted, "exclude": self.ingest.exclude, "file": str(self.file),
                    "outbox": self.given.get("outbox"),
                },
            )
        )  # fmt: skip
        member.connection.subscribe(topics.widest([*self.wanted, _RESERVED_FILTER]))
        member.open(float(self.given.get("start_timeout", 10.0)))
        member.log_to_topic()
        member.set_status(State.READY)
        logger.info("recorder: records to %s", self.file)

    def _came_up(self, session_present: bool) -> None:
        if not session_present:
            self.ingest.write(
                Kind.EVENT, {"level": "INFO", "message": "the broker holds no session of ours: a new subscription"}
            )
        self.ingest.confirm_again()
        self._alarm_told = b"?"  # a broker that forgot, or one that kept what we said before we were killed

    def _publish_stored(self, name: str, content: dict[str, Any]) -> None:
        if self.member.connection.connected and all(ch.isalnum() or ch in "_-." for ch in name):
            try:
                self.member.connection.publish(
                    topics.stored(name), json.dumps(content, separators=(",", ":")).encode(), 0
                )
            except BrokerError:
                logger.debug("%s: not confirmed, the connection is closed", name)

    def _publish_answer(self, topic: str, content: dict[str, Any]) -> None:
        with contextlib.suppress(BrokerError):  # closed: who waits will ask again
            self.member.connection.publish(topic, json.dumps(content).encode(), 1)

    def _publish_ping(self, topic: str, payload: bytes) -> bool:
        try:
            topics.check_name(topics.levels(topic)[2])
            return self.member.connection.connected and self.member.connection.publish(topic, payload, 0)
        except EtherError:  # closed, or a stranger's name that is none
            return False

    def _disk_is_full(self) -> bool:
        self.disk.look()
        return self.disk.full

    def _watch_disk(self) -> None:
        """Tell what is not as it should be of the disk, retained, for as long as it is so."""
        now = clock.monotonic()
        if now - self._disk_seen < _DISK_S:
            return
        self._disk_seen = now
        self.disk.look()
        pressure = self.ingest.pressure()
        behind_s = max(pressure["behind_ms"], pressure["commit_ms"]) / 1e3
        slow = ""
        if behind_s > _SLOW_S and "disk" not in self._alarms:
            waiting = pressure["waiting_bytes"] / 1e6
            slow = f"{self.file.parent}: the disk takes up to {behind_s:.1f} s to store, {waiting:.1f} MB wait"
        found = {"disk": self.disk.warning() or self._alarms.get("disk", ""), "slow": slow}
        found["writer"] = self._alarms.get("writer", "")
        for kind, detail in found.items():
            since, before = self._warnings.get(kind, (clock.now(), ""))
            if detail and not before:
                logger.warning("recorder: %s", detail)
            if detail:
                self._warnings[kind] = since, detail
            elif self._warnings.pop(kind, None) is not None:
                logger.warning("recorder: the alarm about the %s is over, after %.0f s", kind, clock.now() - since)
        self._tell_alarms()

    def _tell_alarms(self) -> None:
        alarms = [
            {"topic": str(self.file), "kind": kind, "detail": detail, "since": since}
            for kind, (since, detail) in sorted(self._warnings.items())
        ]
        payload = json.dumps({"alarms": alarms}).encode() if alarms else b""
        if payload != self._alarm_told and self.member.connection.connected:
            with contextlib.suppress(BrokerError):  # closed
                self.member.connection.publish(topics.alarm(self.name), payload, 1, retain=True)
                self._alarm_told = payload

    def _set_alarm(self, kind: str, reason: str) -> None:
        if reason:
            self._alarms[kind] = reason
        else:
            self._alarms.pop(kind, None)
        if self.stopping.is_set():
            return
        detail = "; ".join(self._alarms.values())
        self.member.set_status(State.ALERT if detail else State.READY, detail)

    def stop(self, reason: str, within: float | None = None) -> None:
        """End in order.

        Args:
            reason: goes into the journal.
            within: seconds after which sealing is left to the next recovery.
        """
        if within is not None:
            deadline = clock.monotonic() + within
            self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        if not self.stopping.is_set():
            self.reason = reason
            self.stopping.set()

    def orphaned(self) -> None:
        """The session's process is gone: give its instances, which end too, time to say their last numbers."""
        deadline = clock.monotonic() + _GOODBYES_S
        while clock.monotonic() < deadline and not self.ingest.account.all_said_goodbye():
            threading.Event().wait(0.05)
        self.stop("the session's process died", within=_ORPHAN_S - _GOODBYES_S)

    @property
    def _way_out(self) -> str:
        return f"ether recover {shlex.quote(str(self.file))}"

    def _stop_commanded(self) -> None:
        self.stop("stop")

    def _drain(self) -> None:
        """Take what the broker still has queued for us.

        Mosquitto lets a new message, such as the order to stop, overtake those that wait since we were away. It sends
        more at each acknowledgement: one that stays silent after the last has no more.
        """
        deadline = clock.monotonic() + _DRAIN_S
        while self.member.connection.connected and self.ingest.quiet_s() < _QUIET_S and clock.monotonic() < deadline:
            threading.Event().wait(0.005)

    def _end(self) -> int:
        """Commit everything, let the writer finish and seal; 0 where the recording is proven and in place."""
        self._drain()
        deadline = self.deadline if self.deadline is not None else clock.monotonic() + _SEAL_S
        # Whoever died for good has nobody else to send what it left: it comes from its disk.
        outboxes = hand_over(outbox_folder(self.file), lambda message: self.ingest.take(message, None))
        within = max(0.5, min(deadline - clock.monotonic(), 5.0))
        committed = self.ingest.close(self.reason, within, self.member.connection.connected)
        let_go(outboxes, committed)
        if not committed:
            logger.error("recorder: not everything could be stored; publishers were not told that it was")
            self.writer.kill()
            return 1
        deaths = self.writer.deaths
        while not self.writer.watch():
            if clock.monotonic() > (self.deadline or deadline):
                logger.warning("recorder: no time to finish the file; `%s` does it", self._way_out)
                self.writer.kill()
                return 1
            if self.writer.deaths - deaths > 2 * WriterProcess.DEADLY:
                logger.error("recorder: the HDF5 writer cannot finish; `%s` may", self._way_out)
                self.writer.kill()
                return 1
            threading.Event().wait(0.02)
        logger.info("recorder: %s is complete and proven against its journal", self.file)
        return 0

    def _goodbye(self, code: int) -> None:
        """Leave the broker for good: it need not keep anything for us any more."""
        member = self.member
        try:
            if member.connection.connected:
                detail = "" if code == 0 else f"not sealed; try `{self._way_out}`"
                if code == 0:
                    self._warnings.clear()
                    self._tell_alarms()
                    member.connection.unsubscribe(topics.widest([*self.wanted, _RESERVED_FILTER]))
                member.set_status(State.DISCONNECTED, detail)
            member.close(2.0, clear=code == 0 and not self.ingest.confirms)  # of the other one the session's end tells
        except EtherError as exc:
            logger.debug("no goodbye: %s", exc)


def main() -> None:
    """Run as the recorder process; orders: see the module `ether.recorder.ingest` in the reference."""
    given = process.orders()
    process.log_to_stderr(given.get("name") or NAME, given.get("log_level", "INFO"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        recorder = Recorder(given)
        signal.signal(signal.SIGTERM, lambda *_: recorder.stop("terminated"))
        process.on_orphaned(recorder.orphaned)
        code = recorder.run()
    except EtherError as exc:
        logger.error("recorder: %s", exc)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # threads of a connection that never came up must not hold us
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO):
            raise
        logger.error("recorder: %s: %s", exc.filename or given.get("file"), exc.strerror)
        os._exit(1)
    sys.exit(code)


def _without_secrets(payload: bytes) -> bytes:
    """Return a self-description with secret arguments replaced: it goes into the file verbatim."""
    try:
        content = json.loads(payload)
    except ValueError:
        return payload
    clean = redacted(content)
    return payload if clean == content else json.dumps(clean, separators=(",", ":")).encode()


def beside(file: Path) -> Path:
    """Return a name next to `file` that is free."""
    number = 2
    while is_taken(candidate := file.with_name(f"{file.stem}-{number}{file.suffix}")):
        number += 1
    return candidate
