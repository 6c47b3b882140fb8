"""What survives a restart: an append-only log, written once per turn of the loop, before anything is acknowledged.

A folder holds segments `00000001.log`, … of records `magic, kind, length, CRC-32, body`. Messages and retained messages
live in the segment they were written to; sessions are written afresh at the start of every segment, so that the oldest
segment can always be dropped once no message in it is wanted. When more than half of the log is waste, what is still
wanted in the oldest segment is appended again and the segment removed. A restart never appends to an old segment.

An acknowledgement leaves only after `write(2)` of the records it stands for: nothing acknowledged is lost to `kill -9`.
`fdatasync` follows in a thread every second: a power cut can lose the last second or so.
"""

from __future__ import annotations

import logging
import os
import struct
import sys
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .limits import Limits
from .packets import Message
from .sessions import Counters, Session

__all__ = ["FolderInUse", "Store"]

logger = logging.getLogger(__name__)

_MAGIC = b"\xe7\x8b"
_HEADER = struct.Struct(">2scII")  # magic, kind, length of the body, CRC-32 of the body
_MESSAGE = struct.Struct(">QBHH")  # number, QoS published with | retain << 2, length of the prefix, targets
_TARGET = struct.Struct(">IB")  # session, QoS
_EVENT = struct.Struct(">BIQH")  # what, session, message, packet identifier
_SESSION = struct.Struct(">IdHHHH")  # number, left_at, length of the client id, subscriptions, received, confirmed
_SENT, _DONE, _CONFIRMED, _COMPLETED, _RECEIVED, _RELEASED = range(6)
_OFFSET_BITS = 40
_SEGMENT_BYTES = 8 * 1024 * 1024
_CLEAN_FROM_BYTES = 64 * 1024 * 1024


class FolderInUse(Exception):
    """Another broker works in this folder."""


@dataclass(slots=True)
class _Stored:
    """What replaying the log says of one session."""

    session: Session
    messages: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Number → (location, packet identifier or 0)."""


class Store:
    """The log in `folder`. One thread; nothing here awaits.

    The recording methods only append to memory; `commit` writes. `location` = segment << 40 | offset.
    """

    def __init__(self, folder: Path, limits: Limits, counters: Counters) -> None:
        """Open the log and read it.

        Raises:
            FolderInUse: another broker has it open.
            OSError: the folder cannot be made, read or written.
        """
        self._folder = folder
        self._limits = limits
        self._counters = counters
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "lock")
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Message] = {}
        self._buffer: list[bytes | memoryview] = []
        self._events: list[bytes] = []
        self._unwritten = b""
        self._live: dict[int, int] = defaultdict(int)
        """Segment → how many deliveries and retained messages in it are still wanted."""
        self._ever: dict[int, int] = defaultdict(int)
        """Segment → how many were ever written to it."""
        self._sizes: dict[int, int] = {}
        """Segment → bytes, the one being written excepted."""
        self._retired: list[IO[bytes]] = []
        """Segments written to their end, to be synced and closed by `sync`."""
        self._doomed: list[Path] = []
        """Segments to be removed by `sync`."""
        self._segment = 0
        self._offset = 0
        self._file: IO[bytes] | None = None
        self._synced = True
        self._next_mid = 1
        self._next_number = 1
        self._reader: tuple[int, IO[bytes]] | None = None
        self._load()
        self._segment = max(self._sizes, default=0)
        self._rotate()
        self._clean()
        self.drop_unwanted()

    # -- recording --

    def session(self, session: Session) -> None:
        """Remember `session` as it is now: its subscriptions and QoS 2 identifiers."""
        if not session.number:
            session.number = self._next_number
            self._next_number += 1
        self._append(b"S", _encode_session(session))

    def forget(self, session: Session) -> None:
        """The session has ended; its messages are not wanted any more."""
        for message, *_ in session.queue:
            self._unwanted(message.location)
        for entry in session.inflight.values():
            if entry is not None:
                self._unwanted(entry[0].location)
        for location in session.spilled:
            self._unwanted(location)
        self._append(b"X", session.number.to_bytes(4, "big"))

    def message(self, message: Message, targets: Sequence[tuple[int, int]], retain: bool = False) -> None:
        """Keep `message` for (session number, QoS) `targets`; sets its `mid` and `location`."""
        message.mid = self._next_mid
        self._next_mid += 1
        self._append_message(message, targets, retain)

    def _append_message(self, message: Message, targets: Sequence[tuple[int, int]], retain: bool) -> None:
        prefix, payload = message.prefix, message.payload
        head = _MESSAGE.pack(message.mid, message.qos | retain << 2, len(prefix), len(targets))
        if len(targets) == 1:
            head += _TARGET.pack(*targets[0])
        else:
            head += b"".join([_TARGET.pack(*target) for target in targets])
        head += prefix
        # `_append` and `_wanted` by hand: this runs for every message to a stored session.
        size = len(head) + len(payload)
        message.location = self._segment << _OFFSET_BITS | self._offset
        self._offset += _HEADER.size + size
        head = _HEADER.pack(_MAGIC, b"M", size, zlib.crc32(payload, zlib.crc32(head))) + head
        self._buffer += (head, payload)
        self._live[self._segment] += len(targets)
        self._ever[self._segment] += len(targets)

    def retain(self, topic: str, message: Message) -> None:
        """Make `message` the retained one of `topic`; an empty payload clears it."""
        before = self.retained.pop(topic, None)
        if before is not None:
            self._unwanted(before.location)
        head = bytes((message.qos,)) + message.prefix
        message.location = self._append(b"R", head, message.payload)
        if message.payload:
            self.retained[topic] = message
            self._wanted(message.location)

    def sent(self, number: int, mid: int, packet_id: int) -> None:
        """The message left for the client under this identifier."""
        self._events.append(_EVENT.pack(_SENT, number, mid, packet_id))

    def confirmed(self, number: int, message: Message, packet_id: int, qos: int) -> None:
        """The client has it: PUBACK, or PUBREC (the identifier stays taken until `completed`)."""
        self._events.append(_EVENT.pack(_DONE if qos == 1 else _CONFIRMED, number, message.mid, packet_id))
        self._live[message.location >> _OFFSET_BITS] -= 1

    def completed(self, number: int, packet_id: int) -> None:
        """PUBCOMP came."""
        self._events.append(_EVENT.pack(_COMPLETED, number, 0, packet_id))

    def received(self, number: int, packet_id: int) -> None:
        """A QoS 2 message came from the client under this identifier."""
        self._events.append(_EVENT.pack(_RECEIVED, number, 0, packet_id))

    def released(self, number: int, packet_id: int) -> None:
        """The client released the identifier (PUBREL)."""
        self._events.append(_EVENT.pack(_RELEASED, number, 0, packet_id))

    def _append(self, kind: bytes, head: bytes, payload: bytes | memoryview = b"") -> int:
        """Add a record; returns its location."""
        checksum = zlib.crc32(payload, zlib.crc32(head))
        size = len(head) + len(payload)
        location = self._segment << _OFFSET_BITS | self._offset
        self._buffer.append(_HEADER.pack(_MAGIC, kind, size, checksum) + head)
        if payload:
            self._buffer.append(payload)
        self._offset += _HEADER.size + size
        return location

    def _wanted(self, location: int, count: int = 1) -> None:
        self._live[location >> _OFFSET_BITS] += count
        self._ever[location >> _OFFSET_BITS] += count

    def _unwanted(self, location: int) -> None:
        self._live[location >> _OFFSET_BITS] -= 1

    # -- writing --

    @property
    def dirty(self) -> bool:
        """Whether `commit` has something to write."""
        return bool(self._buffer or self._events or self._unwritten)

    def commit(self) -> None:
        """Hand everything recorded to the operating system.

        Raises:
            OSError: the disk is full or gone. Nothing is forgotten; call again.
        """
        self._write()
        if self._offset > _SEGMENT_BYTES:
            self._clean()
            self._rotate()

    def _write(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._append(b"E", b"".join(events))
        if self._buffer:
            self._unwritten += b"".join(self._buffer)
            self._buffer.clear()
        while self._unwritten:
            assert self._file is not None
            written = self._file.write(self._unwritten)
            self._unwritten = self._unwritten[written:]
            self._synced = False

    def _rotate(self) -> None:
        """Begin a new segment with all sessions in it."""
        self._write()
        new = open(self._path(self._segment + 1), "xb", buffering=0)  # noqa: SIM115  # closed by `sync` or `close`
        if self._file is not None:
            self._retired.append(self._file)
            self._sizes[self._segment] = self._offset
        self._file = new
        self._segment += 1
        self._offset = 0
        for session in self.sessions.values():
            self.session(session)
        self.drop_unwanted()

    def drop_unwanted(self) -> None:
        """Have `sync` remove the oldest segments, while nothing in them is wanted. Called now and then."""
        self._write()  # what stands for the old records, before those go
        for segment in sorted(self._sizes):
            if self._live[segment] > 0:
                break
            self._close_reader(segment)
            self._doomed.append(self._path(segment))
            for counts in (self._sizes, self._live, self._ever):
                counts.pop(segment, None)

    def sync(self) -> None:
        """Wait until the disk has what was written. Called from a thread; the loop goes on meanwhile."""
        doomed, self._doomed = self._doomed, []
        retired, self._retired = self._retired, []
        for file in retired:
            os.fsync(file.fileno())
            file.close()
        if not self._synced and self._file is not None:
            self._synced = True
            os.fsync(self._file.fileno())  # a file that is retired meanwhile stays open until the next sync
        if doomed:
            _sync_folder(self._folder)
        for path in doomed:  # oldest first, and only now that what stands for them is on the disk
            path.unlink()

    def close(self) -> None:
        """Write, sync and release the folder."""
        self.commit()
        self.sync()
        if self._file is not None:
            self._file.close()
        if self._reader is not None:
            self._reader[1].close()
        self._lock.close()

    # -- making room --

    def _clean(self) -> None:
        """While most of the log is waste, append what is wanted of its oldest segment again (`_rotate` drops it)."""
        end = self._offset + _SEGMENT_BYTES  # at most this much at a time: clients are waiting
        total = sum(self._sizes.values()) + self._offset
        for segment in sorted(self._sizes):
            wanted = sum(size * self._live[s] // max(self._ever[s], 1) for s, size in self._sizes.items())
            scattered = len(self._sizes) > 8 + 2 * total // _SEGMENT_BYTES  # many small ones: many restarts
            if self._offset > end or (total < max(_CLEAN_FROM_BYTES, 2 * wanted) and not scattered):
                return
            for topic, message in list(self.retained.items()):
                if message.location >> _OFFSET_BITS == segment:
                    self.retain(topic, message)
            for session in self.sessions.values():
                self._move(session, segment)
            self._live[segment] = 0
            total -= self._sizes[segment]

    def _move(self, session: Session, oldest: int) -> None:
        """Append again what `session` still wants of the oldest segment."""
        number = session.number
        for packet_id, entry in session.inflight.items():
            if entry is not None and entry[0].location >> _OFFSET_BITS == oldest:
                message = _copy(entry[0])
                self._append_message(message, [(number, entry[1])], entry[2])
                self.sent(number, message.mid, packet_id)
                session.inflight[packet_id] = (message, *entry[1:])
        if any(message.location >> _OFFSET_BITS == oldest for message, _, _ in session.queue):
            queue, session.queue = session.queue, deque()
            for message, qos, retain in queue:
                if message.location >> _OFFSET_BITS == oldest:
                    message = _copy(message)
                    self._append_message(message, [(number, qos)], retain)
                session.queue.append((message, qos, retain))
        if any(location >> _OFFSET_BITS == oldest for location in session.spilled):
            locations: deque[int] = deque()
            for location in session.spilled:
                if location >> _OFFSET_BITS == oldest:
                    found = self.read(location, number)
                    if found is None:
                        continue
                    self._append_message(found[0], [(number, found[1])], found[2])
                    location = found[0].location
                locations.append(location)
            session.spilled = locations

    # -- reading --

    def read(self, location: int, number: int) -> tuple[Message, int, bool] | None:
        """(message, QoS, retain) that session `number` is to get, or None where the disk has lost it.

        Raises:
            OSError: not now; it is not written yet, and the disk is full.
        """
        segment, offset = location >> _OFFSET_BITS, location & (1 << _OFFSET_BITS) - 1
        if segment == self._segment:
            self._write()
        try:
            file = self._open_reader(segment)
            file.seek(offset)
            magic, kind, size, checksum = _HEADER.unpack(file.read(_HEADER.size))
            body = file.read(size)
            if magic != _MAGIC or kind != b"M" or zlib.crc32(body) != checksum:
                raise ValueError("the record is damaged")
        except (OSError, ValueError, struct.error) as exc:
            logger.error("%s: a stored message at %d is lost: %s", self._path(segment), offset, exc)
            self._unwanted(location)
            return None
        mid, flags, targets, prefix, payload_at = _decode_message(body)
        message = Message(prefix, body[payload_at:], flags & 3, mid, location)
        return message, targets.get(number, 1), bool(flags & 4)

    def _open_reader(self, segment: int) -> IO[bytes]:
        if self._reader is None or self._reader[0] != segment:
            self._close_reader()
            self._reader = segment, open(self._path(segment), "rb", buffering=0)  # noqa: SIM115  # by _close_reader
        return self._reader[1]

    def _close_reader(self, segment: int | None = None) -> None:
        if self._reader is not None and segment in (None, self._reader[0]):
            self._reader[1].close()
            self._reader = None

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.log"

    def _load(self) -> None:
        """Replay all segments, oldest first."""
        stored: dict[int, _Stored] = {}
        for path in sorted(self._folder.glob("[0-9]" * 8 + ".log")):
            segment = int(path.stem)
            data = path.read_bytes()
            self._sizes[segment] = len(data)
            for kind, offset, body in _records(path, data):
                location = segment << _OFFSET_BITS | offset
                match kind:
                    case b"M":
                        mid, _, targets, _, _ = _decode_message(body)
                        self._next_mid = max(self._next_mid, mid + 1)
                        for number in targets:
                            if number in stored:
                                stored[number].messages[mid] = location, 0
                    case b"R":
                        self._load_retained(body, location)
                    case b"S":
                        self._load_session(body, stored)
                    case b"X":
                        stored.pop(int.from_bytes(body, "big"), None)
                    case b"E":
                        _replay(_EVENT.iter_unpack(body), stored)
        self._adopt(stored.values())

    def _load_retained(self, body: bytes, location: int) -> None:
        payload_at = 3 + int.from_bytes(body[1:3], "big")
        message = Message(body[1:payload_at], body[payload_at:], body[0], 0, location)
        before = self.retained.pop(message.topic, None)
        if before is not None:
            self._unwanted(before.location)
        if message.payload:
            self.retained[message.topic] = message
            self._wanted(location)

    def _load_session(self, body: bytes, stored: dict[int, _Stored]) -> None:
        session = Session("", True, self._limits, self._counters, self)
        _decode_session(body, session)
        self._next_number = max(self._next_number, session.number + 1)
        before = stored.get(session.number)
        stored[session.number] = _Stored(session, before.messages if before else {})

    def _adopt(self, stored: Iterable[_Stored]) -> None:
        """Turn what replay found into sessions: what was sent is in flight again, the rest is spilled."""
        for found in stored:
            session = found.session
            for mid in sorted(found.messages):
                location, packet_id = found.messages[mid]
                if packet_id:
                    entry = self.read(location, session.number)
                    if entry is not None:
                        session.inflight[packet_id] = entry
                        session.inflight_bytes += len(entry[0].payload)
                        session.last_id = packet_id
                else:
                    session.spilled.append(location)
                self._wanted(location)
            session.left_at = session.left_at or time.time()
            self.sessions[session.client_id] = session


def _records(path: Path, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(kind, offset, body) of every good record; says once per segment what was skipped, and cuts a torn end off."""
    at, skipped, good = 0, 0, 0
    while at < len(data):
        if at + _HEADER.size <= len(data):
            magic, kind, size, checksum = _HEADER.unpack_from(data, at)
            end = at + _HEADER.size + size
            if magic == _MAGIC and end <= len(data):
                body = data[at + _HEADER.size : end]
                if zlib.crc32(body) == checksum:
                    yield kind, at, body
                    at = good = end
                    continue
        following = data.find(_MAGIC, at + 1)
        following = following if following > 0 else len(data)
        skipped += following - at
        at = following
    if skipped:
        logger.warning("%s: %d of %d bytes are torn or damaged; the rest is used", path, skipped, len(data))
    if good < len(data):
        os.truncate(path, good)


def _replay(events: Iterator[tuple[int, ...]], stored: dict[int, _Stored]) -> None:
    for what, number, mid, packet_id in events:
        found = stored.get(number)
        if found is None:
            continue
        if what == _SENT and mid in found.messages:
            found.messages[mid] = found.messages[mid][0], packet_id
        elif what in (_DONE, _CONFIRMED):
            found.messages.pop(mid, None)
            if what == _CONFIRMED:
                found.session.inflight[packet_id] = None
        elif what == _COMPLETED:
            found.session.inflight.pop(packet_id, None)
        elif what == _RECEIVED:
            found.session.received.add(packet_id)
        elif what == _RELEASED:
            found.session.received.discard(packet_id)


def _encode_session(session: Session) -> bytes:
    client_id = session.client_id.encode()
    confirmed = [packet_id for packet_id, entry in session.inflight.items() if entry is None]
    parts = [
        _SESSION.pack(
            session.number, session.left_at, len(client_id), len(session.subscriptions), len(session.received),
            len(confirmed),
        ),
        client_id,
    ]  # fmt: skip
    for topic_filter, qos in session.subscriptions.items():
        encoded = topic_filter.encode()
        parts.append(struct.pack(">BH", qos, len(encoded)) + encoded)
    parts.append(struct.pack(f">{len(session.received) + len(confirmed)}H", *session.received, *confirmed))
    parts.append(session.owner.encode())
    return b"".join(parts)


def _decode_session(body: bytes, session: Session) -> None:
    session.number, session.left_at, id_size, subscriptions, received, confirmed = _SESSION.unpack_from(body)
    at = _SESSION.size + id_size
    session.client_id = body[_SESSION.size : at].decode()
    for _ in range(subscriptions):
        qos, size = struct.unpack_from(">BH", body, at)
        session.subscriptions[body[at + 3 : at + 3 + size].decode()] = qos
        at += 3 + size
    identifiers = struct.unpack_from(f">{received + confirmed}H", body, at)
    session.received.update(identifiers[:received])
    session.inflight.update(dict.fromkeys(identifiers[received:]))
    session.owner = body[at + 2 * len(identifiers) :].decode()


def _decode_message(body: bytes) -> tuple[int, int, dict[int, int], bytes, int]:
    """(mid, flags, session → QoS, prefix, where the payload starts)."""
    mid, flags, prefix_size, targets = _MESSAGE.unpack_from(body)
    at = _MESSAGE.size + targets * _TARGET.size
    payload_at = at + prefix_size
    return mid, flags, dict(_TARGET.iter_unpack(body[_MESSAGE.size : at])), body[at:payload_at], payload_at


def _copy(message: Message) -> Message:
    """The same message for one session alone, so that its new location is not taken for another session's."""
    return Message(message.prefix, message.payload, message.qos, message.mid, message.location)


def _sync_folder(folder: Path) -> None:
    """Make the names of new files last; Windows does so by itself."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(path: Path) -> IO[bytes]:
    """Hold `path` locked until closed or until this process ends, however it ends."""
    file = open(path, "ab")  # noqa: SIM115  # kept open on purpose
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise FolderInUse(f"{path.parent} is in use by another broker") from None
    return file
