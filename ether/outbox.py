"""Outbox: what was published is kept until the recorder has confirmed it durable, and sent again where it has not.

`Outbox` is the account and the file of one publisher start; `Sender` is the thread that settles it with the recorder.
The rules stand in the wire contract, section 8. The file is a journal that never waits for the disk: a message is
written to it before it is sent, so that killing the publisher loses nothing, and forgotten once it is confirmed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ether import clock, topics
from ether.errors import EtherError, JournalError
from ether.journal import Journal, JournalReader, Record
from ether.model import Message
from ether.mqtt import Connection

__all__ = ["LIMIT_BYTES", "Outbox", "Sender", "hand_over", "leftovers", "let_go", "outbox_folder", "sender_orders"]

logger = logging.getLogger(__name__)

LIMIT_BYTES = 64 << 20
BLOCK_S = 5.0
WINDOW = 200
"""So many messages are sent again at most before the recorder is asked what it has."""
_WINDOW_BYTES = 8 << 20
_PATIENCE_S = (1.0, 30.0)
_CHUNK_BYTES = 4 << 20
_MOST_HOLES = 100
"""A recorder that names so many holes may know of more."""
_HEAD = struct.Struct("<BqIH")
_MESSAGE, _SUMMARY = 0, 1
_OVERHEAD = 64
RECORDER = "recorder"

Spans = list[list[int]]


def outbox_folder(recording: Path, name: str = "") -> Path:
    """Return where a publisher keeps what a recording has not confirmed yet; without a name, where all do."""
    return recording.parent / f".{recording.stem}.outbox" / name


def sender_orders(
    recording: Path, name: str, filters: list[str], exclude: list[str], limits: dict[str, Any] | None
) -> dict[str, Any]:
    """Return what `Sender.ordered` takes, of a publisher of this name beside a recording.

    Args:
        recording: its file.
        name: of the publisher.
        filters: topics that are recorded.
        exclude: and those that are not after all.
        limits: ``size`` and ``block``.
    """
    return {"folder": str(outbox_folder(recording, name)), "topics": filters, "exclude": exclude, **(limits or {})}


def leftovers(folder: Path, but: str = "") -> list[Path]:
    """Return the outboxes of former starts in a publisher's folder."""
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir() and each.name != but)
    except OSError:
        return []


def hand_over(folder: Path, take: Callable[[Message], None]) -> list[Outbox]:
    """Hand over what dead publishers left below `outbox_folder`, as if each sent it again and said its goodbye.

    Returns:
        Their outboxes, for `let_go`.
    """
    boxes = []
    for publisher in leftovers(folder):
        for start in leftovers(publisher):
            outbox = _of_the_dead(start)
            if outbox is None:
                continue
            try:
                for topic, payload in outbox.messages():
                    take(Message(topics.resend(topic), payload, 1))
            except JournalError as exc:
                logger.error("%s: what it left in %s cannot be read: %s", publisher.name, start, exc)
                outbox.close(remove=False)
                continue
            take(Message(topics.status(publisher.name), outbox.goodbye(), 1))
            boxes.append(outbox)
    return boxes


def _of_the_dead(folder: Path, limit: int = LIMIT_BYTES) -> Outbox | None:
    """Return the outbox that a dead start left; None where its publisher lives, or has just removed it."""
    try:
        outbox = Outbox(folder, limit=limit)
    except JournalError as exc:
        logger.debug("%s: %s", folder.parent.name, exc)
        return None
    if outbox.tracks:
        return outbox
    outbox.close(remove=True)
    return None


def let_go(boxes: list[Outbox], stored: bool) -> None:
    """Close what was handed over; and remove it, where all of it is durable."""
    for outbox in boxes:
        outbox.close(remove=stored)
    for folder in {outbox.folder.parent.parent for outbox in boxes}:
        with contextlib.suppress(OSError):
            folder.rmdir()  # unless others have theirs in it


@dataclass(slots=True)
class _Track:
    """What is known of one topic."""

    next: int = 0
    """Behind the last number kept."""
    stored: int = 0
    """All below is durable at the recorder, or was never kept."""
    since: float = 0.0
    """When `stored` moved last, or the topic fell behind."""
    doubtful: int = 0
    """All below is in question: it was not confirmed for too long."""
    wanted: Spans = field(default_factory=list)
    """What the recorder lacks, and is to be sent again."""
    read: int = -1
    """Highest number that the present reading of the file has passed."""
    gaps: Spans = field(default_factory=list)
    """Numbers that were used, and are not kept here."""

    @property
    def behind(self) -> bool:
        return self.stored < self.next

    def mendable(self, holes: Iterable[list[int]]) -> Spans:
        """Return the holes of which at least a part may be kept here."""
        return [
            hole
            for hole in holes
            if self.stored <= hole[1]
            and hole[0] < self.next
            and not any(first <= max(hole[0], self.stored) and hole[1] <= last for first, last in self.gaps)
        ]


@dataclass(slots=True)
class _Chunk:
    """A stretch of the file."""

    first: int
    """Number of its first record."""
    size: int = 0
    lasts: dict[str, int] = field(default_factory=dict)
    """Highest number in it, by topic."""


class Outbox:
    """The messages of one publisher start that are not known to be durable. Any thread may call.

    Memory holds a few numbers per topic; payloads are in the folder, which is made with the first message.

    Args:
        folder: named by the boot id; what is in it already is taken over.
        limit: bytes to keep at most.
    """

    def __init__(self, folder: Path, *, limit: int = LIMIT_BYTES) -> None:
        self.folder = folder
        self.boot = folder.name
        self.tracks: dict[str, _Track] = {}
        self._limit = limit
        self._chunk_bytes = min(_CHUNK_BYTES, max(limit // 16, 1))
        self._chunks: deque[_Chunk] = deque()
        self._bytes = 0
        self._droppable = 0
        self._overflowing = False
        self._room = threading.Condition()
        self._reader: JournalReader | None = None
        self._reread = True
        self._questions = count(1)
        self._question = 0
        self._farewell = 0
        """The question that followed the goodbye of a dead start."""
        self.parted = False
        """The recorder has that goodbye on disk."""
        self._answer_by = 0.0
        self._patience = _PATIENCE_S[0]
        self._journal = Journal(
            folder, segment_bytes=max(self._chunk_bytes, 1 << 16), replay=self._replayed, transient=True
        )

    # Keeping

    def keep(self, topic: str, number: int, readings: int, payload: bytes, wait_s: float = BLOCK_S) -> bool:
        """Keep one message before it is sent; False where there is no room, not even after `wait_s` seconds.

        Raises:
            JournalError: the disk refuses. The message is kept in memory then, and written as soon as it can be.
        """
        name = topic.encode()
        size = len(payload) + len(name) + _OVERHEAD
        with self._room:
            if self._bytes and self._bytes + size > self._limit and not self._wait_for_room(size, wait_s):
                return False
            self._overflowing = False
            self._note(self._journal.next_number, topic, number, readings, size)
            self._journal.append(_HEAD.pack(_MESSAGE, number, readings, len(name)) + name, payload)
            self._journal.commit()
        return True

    def _wait_for_room(self, size: int, wait_s: float) -> bool:
        """Wait once; as long as it stays full after that, the next messages do not wait again."""
        fits = self._room.wait_for(
            lambda: not self._bytes or self._bytes + size <= self._limit, 0.0 if self._overflowing else wait_s
        )
        self._overflowing = not fits
        return fits

    def _note(self, record: int, topic: str, number: int, readings: int, size: int) -> None:
        track = self.tracks.get(topic)
        if track is None:
            track = self.tracks[topic] = _Track(number, number)
        if number > track.next:
            track.gaps.append([track.next, number - 1])
            if not track.behind:
                track.stored = number
        if not track.behind:
            track.since = clock.monotonic()
        track.next = max(track.next, number + readings)
        if not self._chunks or self._chunks[-1].size >= self._chunk_bytes:
            self._chunks.append(_Chunk(record))
        chunk = self._chunks[-1]
        chunk.size += size
        chunk.lasts[topic] = track.next - 1
        self._bytes += size

    def _replayed(self, record: Record) -> None:
        """Take over a record that a former process left."""
        kind, number, readings, size = _HEAD.unpack_from(record.body)
        body = record.body[_HEAD.size :]
        if kind == _MESSAGE:
            self._note(record.number, body[:size].decode(), number, readings, len(body) + _OVERHEAD)
            return
        for topic, (following, stored) in json.loads(body).items():
            track = self.tracks.setdefault(topic, _Track())
            track.next, track.stored = max(track.next, following), max(track.stored, stored)

    # What is known

    @property
    def confirmed(self) -> bool:
        """Whether everything is durable at the recorder."""
        with self._room:
            return not any(track.behind for track in self.tracks.values())

    def unconfirmed(self) -> dict[str, int]:
        """Return how many numbers of each topic are not confirmed."""
        with self._room:
            return {topic: track.next - track.stored for topic, track in self.tracks.items() if track.behind}

    def last_numbers(self) -> dict[str, int]:
        """Return the last number of each topic."""
        with self._room:
            return {topic: track.next - 1 for topic, track in self.tracks.items() if track.next}

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """Yield topic and payload of all that is kept and not known to be durable, as it was published."""
        everything = {topic: _Track(track.next, track.stored, wanted=_span(track.stored, track.next))
                      for topic, track in self.tracks.items()}  # fmt: skip
        with JournalReader(self.folder, dropped=True) as reader:
            for record in reader:
                if (found := self._if_wanted(record.body, everything)) is not None:
                    yield found

    def goodbye(self) -> bytes:
        """Return the status by which somebody else closes the account of this start, which died."""
        content = {
            "state": "disconnected", "boot": self.boot, "t": clock.now(), "last": self.last_numbers(),
            "detail": "it died; what it had published was sent on its behalf", "outbox": "disk",
        }  # fmt: skip
        return json.dumps(content).encode()

    # Settling with the recorder

    def told(self, said: Mapping[str, Any]) -> None:
        """Take into account what `ether/stored/<name>` says of this boot."""
        now = clock.monotonic()
        answered = bool(self._question) and said.get("asked") == self._question
        marks, firsts = said.get("topics", {}), said.get("first", {})
        holes, seen = said.get("missing", {}), said.get("seen", {})
        with self._room:
            for topic in self.tracks if answered else {**marks, **holes}:
                track = self.tracks.get(topic)
                if track is not None:
                    if answered:
                        track.wanted = []
                    self._settle(
                        track, marks.get(topic), firsts.get(topic, 0), holes.get(topic, []), seen.get(topic, -1), now
                    )
                    if answered:
                        # The question went behind all that is in doubt, so what is not there now has been lost.
                        track.wanted = track.wanted or _span(track.stored, track.doubtful)
            if answered:
                self.parted = self._question == self._farewell
                self._question, self._patience = 0, _PATIENCE_S[0]
            self._forget_stored()
            self._room.notify_all()

    def _settle(self, track: _Track, mark: int | None, first: int, holes: Spans, seen: int, now: float) -> None:
        mendable = track.mendable(holes)
        if mark is not None and first > track.stored and track.mendable([[track.stored, first - 1]]):
            track.wanted = [[track.stored, first - 1]]  # the recorder began later than we did, and we have it
            return
        below = track.stored if mark is None else mark + 1
        if mendable:
            below = mendable[0][0]
        elif holes:  # nobody has these any more: what lies behind them is stored
            below = seen + 1 if len(holes) < _MOST_HOLES else holes[-1][1] + 1
        below = min(below, track.next)
        if below > track.stored:
            track.stored, track.since = below, now
        track.wanted = mendable or [span for span in track.wanted if span[1] >= track.stored]

    def _forget_stored(self) -> None:
        while self._chunks and all(self.tracks[topic].stored > last for topic, last in self._chunks[0].lasts.items()):
            chunk = self._chunks.popleft()
            self._bytes -= chunk.size
            self._droppable += chunk.size
        if self._droppable < self._chunk_bytes:
            return
        self._droppable = 0
        for track in self.tracks.values():
            track.gaps = [gap for gap in track.gaps if gap[1] >= track.stored]
        summary = {topic: (track.next, track.stored) for topic, track in self.tracks.items()}
        with contextlib.suppress(JournalError):  # a full disk: the next time will do
            self._journal.append(_HEAD.pack(_SUMMARY, 0, 0, 0), json.dumps(summary).encode())
            self._journal.commit()
            self._journal.drop(self._chunks[0].first if self._chunks else self._journal.next_number)

    def renew(self) -> None:
        """The connection or the recorder is a new one: what it says by itself comes first."""
        now = clock.monotonic()
        with self._room:
            self._question, self._patience, self._reread = 0, _PATIENCE_S[0], True
            for track in self.tracks.values():
                track.since, track.wanted = now, []

    def hurry(self) -> None:
        """Put everything in question at once."""
        with self._room:
            for track in self.tracks.values():
                track.doubtful = track.next

    def due(self) -> float | None:
        """Return when `step` has something to do, on the monotonic clock; None for not before something comes."""
        with self._room:
            if self._question:
                return self._answer_by
            times = [
                0.0 if track.wanted or track.doubtful > track.stored else track.since + _PATIENCE_S[0]
                for track in self.tracks.values()
                if track.behind
            ]
            if self._journal.pending_bytes:
                times.append(clock.monotonic() + _PATIENCE_S[0])
            return min(times, default=None)

    def step(self) -> tuple[list[tuple[str, bytes]], int] | None:
        """Return what is to be sent again now, and the number of the question to follow it; None for nothing."""
        now = clock.monotonic()
        with self._room:
            if self._journal.pending_bytes:
                with contextlib.suppress(JournalError):
                    self._journal.commit()
            if self._question and now < self._answer_by:
                return None
            unanswered, self._question = bool(self._question), 0
            behind = [track for track in self.tracks.values() if track.behind]
            for track in behind:
                if track.doubtful <= track.stored and now - track.since >= _PATIENCE_S[0]:
                    track.doubtful = track.next
                if unanswered:
                    track.wanted = _span(track.stored, track.doubtful)
            if not any(track.wanted or track.doubtful > track.stored for track in behind):
                return None
            if unanswered:
                self._patience, self._reread = min(2 * self._patience, _PATIENCE_S[1]), True
            self._question, self._answer_by = next(self._questions), now + self._patience
            wanted = {topic: track for topic, track in self.tracks.items() if track.behind and track.wanted}
        return (self._collect(wanted) if wanted else []), self._question

    def farewell(self) -> int | None:
        """Return the number of the question to follow a goodbye; None while the answer to the last is awaited."""
        now = clock.monotonic()
        with self._room:
            if self._question and now < self._answer_by:
                return None
            self._question = self._farewell = next(self._questions)
            self._answer_by = now + self._patience
            return self._question

    def _collect(self, wanted: dict[str, _Track]) -> list[tuple[str, bytes]]:
        """Read from the file what is wanted, as much as may be sent at once. Only the sending thread calls this."""
        fresh = self._reread or any(track.wanted[0][0] <= track.read for track in wanted.values())
        if fresh:
            if self._reader is not None:
                self._reader.close()
            self._reader = JournalReader(self.folder, live=True, dropped=True)
            self._reread = False
            for track in self.tracks.values():
                track.read = -1
        assert self._reader is not None
        found: list[tuple[str, bytes]] = []
        size = 0
        while len(found) < WINDOW and size < _WINDOW_BYTES:
            records = self._reader.read(WINDOW - len(found), _WINDOW_BYTES - size)
            if not records:
                break
            for record in records:
                message = self._if_wanted(record.body, wanted)
                if message is not None:
                    found.append(message)
                    size += len(message[1])
        if not found:
            self._give_up(wanted, fresh)
        return found

    def _if_wanted(self, body: bytes, wanted: dict[str, _Track]) -> tuple[str, bytes] | None:
        kind, number, readings, size = _HEAD.unpack_from(body)
        if kind != _MESSAGE:
            return None
        topic = body[_HEAD.size : _HEAD.size + size].decode()
        last = number + readings - 1
        if topic in self.tracks:
            self.tracks[topic].read = max(self.tracks[topic].read, last)
        track = wanted.get(topic)
        if track is None or last < track.stored:
            return None
        if not any(first <= last and number <= end for first, end in track.wanted):
            return None
        return topic, body[_HEAD.size + size :]

    def _give_up(self, wanted: dict[str, _Track], fresh: bool) -> None:
        """The file does not hold what is wanted, or no longer: say so, and do not ask for ever."""
        self._reread = True
        if not fresh or self._journal.pending_bytes:
            return  # looked from the middle on, or some of it is not written yet
        with self._room:
            for topic, track in wanted.items():
                logger.error("outbox %s: %r: numbers %s cannot be read back", self.folder, topic, track.wanted)
                track.gaps += track.wanted
                track.wanted = []

    def close(self, remove: bool) -> None:
        """Let go of the files; and remove them, where nobody needs them any more."""
        if self._reader is not None:
            self._reader.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)  # before others may open it, and take us for dead
        self._journal.close()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)  # where open files stay
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()  # unless another start has its own beside


def _span(first: int, behind: int) -> Spans:
    return [[first, behind - 1]] if behind > first else []


class Sender:
    """Settles with the recorder what one publisher owes it: of this start, and of former ones that were killed.

    It has a thread from the first message on, or as soon as a former start is found to have left something.

    Args:
        connection: over which messages are sent again, and the recorder is asked.
        name: of the publisher.
        boot: of this start; empty for somebody else who settles what a dead publisher left.
        folder: of the publisher, below `outbox_folder`.
        counts: `resent` and `unstored` are counted here.
        limit: bytes to keep at most.
        block_s: seconds that a publisher waits for room.
    """

    def __init__(
        self, connection: Connection, name: str, boot: str, folder: Path, *,
        counts: Counter[str] | None = None, limit: int = LIMIT_BYTES, block_s: float = BLOCK_S,
    ) -> None:  # fmt: skip
        self.name = name
        self.boot = boot
        self.folder = folder
        self.counts: Counter[str] = Counter() if counts is None else counts
        self.on_trouble: Callable[[str], None] = lambda what: None
        """Called in a publishing thread with one line when messages cannot be kept, and with "" when they can again."""
        self._connection = connection
        self._limit = limit
        self._block_s = block_s
        self._outbox: Outbox | None = None
        self._boxes: list[Outbox] = []
        self._filters: list[str] = []
        self._exclude: list[str] = []
        self._choices: dict[str, bool] = {}
        self._recorder = ""
        """Boot id of the living recorder."""
        self._told: deque[bytes] = deque()
        self._wake = threading.Event()
        self._settled = threading.Condition()
        self._closing = False
        self._idle = False
        self._listening = False
        self._adopted = threading.Event()
        self._began = threading.Lock()
        self._thread: threading.Thread | None = None
        self._trouble = ""

    @classmethod
    def ordered(
        cls, given: Mapping[str, Any], connection: Connection, name: str, boot: str, counts: Counter[str] | None = None
    ) -> Sender:
        """Return a sender as a session's orders want it: ``folder``, ``topics``, ``exclude``, ``size``, ``block``."""
        sender = cls(
            connection, name, boot, Path(given["folder"]), counts=counts,
            limit=given.get("size", LIMIT_BYTES), block_s=given.get("block", BLOCK_S),
        )  # fmt: skip
        sender.records(given["topics"], given["exclude"])
        return sender

    def begin(self) -> None:
        """Listen to the recorder, and send what former starts left; the first message does so too."""
        with self._began:
            if self._listening:
                return
            self._listening = True
        heard = [topics.stored(self.name), topics.about(RECORDER), topics.status(RECORDER)]
        self._connection.subscribe(heard)
        if leftovers(self.folder, self.boot):
            self._start()

    def records(self, filters: Iterable[str], exclude: Iterable[str]) -> None:
        """Keep, from now on, what a recorder records."""
        self._filters, self._exclude = list(filters), list(exclude)
        self._choices = {}

    # Publishing

    def keep(self, topic: str, number: int, readings: int, payload: bytes) -> None:
        """Keep one message, if it is to be recorded; call this before it is sent, in the order of numbers."""
        chosen = self._choices.get(topic)
        if chosen is None:
            chosen = topics.matches_any(self._filters, topic) and not topics.matches_any(self._exclude, topic)
            if len(self._choices) < 100_000:
                self._choices[topic] = chosen
        if not chosen:
            return
        if self._idle:
            self._idle = False
            self._wake.set()
        try:
            outbox = self._outbox or self._open()
            wait_s = 0.0 if self._connection.in_network_thread else self._block_s
            kept = outbox.keep(topic, number, readings, payload, wait_s)
            trouble = "" if kept else f"the outbox is full ({self._limit} bytes wait for the recorder)"
        except JournalError as exc:
            kept, trouble = self._outbox is not None, f"the outbox cannot be written: {exc}"
        if not kept:
            self.counts["unstored"] += 1
        if trouble != self._trouble:
            self._say(trouble)

    def _say(self, trouble: str) -> None:
        self._trouble = trouble
        if trouble:
            logger.error("%s: %s; messages go out all the same, and cannot be sent again", self.name, trouble)
        else:
            logger.warning("%s: the outbox takes messages again; %d were not kept", self.name, self.counts["unstored"])
        self.on_trouble(trouble)

    def _open(self) -> Outbox:
        with self._began:
            if self._outbox is None:
                outbox = Outbox(self.folder / self.boot, limit=self._limit)
                self._boxes.append(outbox)
                self._outbox = outbox
        self.begin()
        self._start()
        return self._outbox

    def _start(self) -> None:
        with self._began:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"outbox {self.name}", daemon=True)
                self._thread.start()

    # The network thread

    def hear(self, message: Message) -> None:
        """Take what concerns us: what the recorder has stored, what it records, and whether it lives."""
        reserved = topics.parse(message.topic)
        if reserved is None or reserved.name not in (self.name, RECORDER):
            return
        if reserved.kind == "stored" and reserved.name == self.name:
            self._told.append(message.payload)
            self._wake.set()
        elif reserved.name == RECORDER and reserved.kind in ("about", "status"):
            content = _read(message.payload)
            if reserved.kind == "about":
                self._described(content)
            else:
                self._lives(content)

    def _described(self, content: dict[str, Any]) -> None:
        subscribes = content.get("subscribes", {})
        filters = [each for each, entry in subscribes.items() if isinstance(entry, dict) and entry.get("records")]
        self.records(filters, content.get("kwargs", {}).get("exclude", ()))

    def _lives(self, content: dict[str, Any]) -> None:
        state, boot = content.get("state", ""), str(content.get("boot", ""))
        if state in ("ready", "alert"):
            if boot != self._recorder:
                self._recorder = boot
                self.renew()
        elif boot == self._recorder or state != "lost":
            self._recorder = ""
            if state in ("disconnected", ""):
                self.records((), ())  # it has ended in order: nobody records
                self.renew()

    def renew(self) -> None:
        """The connection, or the recorder, is a new one."""
        for outbox in list(self._boxes):
            outbox.renew()
        self._wake.set()

    # The thread

    def _run(self) -> None:
        self._adopt()
        self._adopted.set()
        while not self._closing:
            wait_s = self._wait_s()
            if wait_s is None and self._recorder:
                self._idle = True  # the next message wakes us
                wait_s = self._wait_s()
            self._wake.wait(wait_s)
            self._wake.clear()
            self._idle = False
            while self._told:
                content = _read(self._told.popleft())
                for outbox in self._boxes:
                    if content.get("boot") == outbox.boot:  # only our own starts: a name may be used twice
                        outbox.told(content)
            try:
                for outbox in list(self._boxes):
                    self._advance(outbox)
            except EtherError as exc:
                if not self._closing:
                    logger.error("%s: sending again failed: %s", self.name, exc)
            with self._settled:
                self._settled.notify_all()

    def _adopt(self) -> None:
        for folder in leftovers(self.folder, self.boot):
            outbox = _of_the_dead(folder, self._limit)
            if outbox is None:
                continue
            logger.info("%s: a former start left unconfirmed messages in %s; sending them", self.name, folder)
            outbox.hurry()
            with self._began:
                self._boxes.append(outbox)

    def _wait_s(self) -> float | None:
        """Return the seconds until something is due; None for not before somebody wakes us."""
        if not self._recorder or not self._connection.connected:
            return None
        due = [when for outbox in list(self._boxes) if (when := outbox.due()) is not None]
        return max(0.0, min(due) - clock.monotonic()) if due else None

    def _advance(self, outbox: Outbox) -> None:
        if not self._recorder or not self._connection.connected:
            return
        if outbox is not self._outbox and outbox.confirmed:
            self._part_with(outbox)
            return
        step = outbox.step()
        if step is None:
            return
        again, question = step
        for topic, payload in again:
            self._connection.publish(topics.resend(topic), payload, 1)
        if again:
            self.counts["resent"] += len(again)
            logger.info("%s: sent %d messages again", self.name, len(again))
        self._ask(outbox, question)

    def _ask(self, outbox: Outbox, question: int) -> None:
        asked = {"by": self.name, "boot": outbox.boot, "id": question}
        self._connection.publish(topics.command(RECORDER, "confirm"), json.dumps(asked).encode(), 1)

    def _part_with(self, outbox: Outbox) -> None:
        """All that a dead start had is stored: say its last numbers on its behalf, which closes its account.

        A broker may die with the goodbye, so the outbox stays until the recorder answers a question that followed it.
        """
        if outbox.parted:
            outbox.close(remove=True)
            with self._began:
                self._boxes.remove(outbox)
            return
        question = outbox.farewell()
        if question is None:
            return
        self._connection.publish(topics.status(self.name), outbox.goodbye(), 1)
        self._ask(outbox, question)

    # The end

    def settle(self, timeout: float) -> bool:
        """Wait until the recorder has confirmed everything; False where it has not, at once if nobody records."""
        if self._thread is None:
            return True

        def settled() -> bool:
            return self._adopted.is_set() and all(
                outbox is self._outbox and outbox.confirmed for outbox in list(self._boxes)
            )

        for outbox in list(self._boxes):
            outbox.hurry()
        self._wake.set()
        with self._settled:
            self._settled.wait_for(lambda: settled() or not self._filters, timeout)
        return settled()

    def close(self) -> None:
        """End; what is confirmed is removed, the rest stays for the next start, or for the session's end."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5.0)
        for outbox in self._boxes:
            left = outbox.unconfirmed()
            outbox.close(remove=not left and (outbox is self._outbox or outbox.parted))
            if left:
                logger.error(
                    "%s: the recorder has not confirmed %d messages on %d topics; they are kept in %s",
                    self.name, sum(left.values()), len(left), outbox.folder,
                )  # fmt: skip
        self._boxes.clear()


def _read(payload: bytes) -> dict[str, Any]:
    try:
        content = json.loads(payload)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
