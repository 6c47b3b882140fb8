"""Append-only, checksummed, group-committed records in a folder: what is committed survives a power cut.

A journal is a folder of segments ``000001.etj, 000002.etj, …``. A segment is a header and records one after the other:

    header   magic "ETHERJNL" | u32 version | u32 index | u64 number of its first record | u32 crc of the former
    record   magic "ETJ1" | u32 body length | u64 number | u8 first of a commit | u32 crc of the body | body

All little-endian. Records are numbered 0, 1, 2 … through all segments. Since a commit is written only after the one
before it is durable, its first record proves that everything before it once was. The crc begins with a seed made of
number and mark, so that it holds for them, too. Segments are preallocated, so a full disk shows before a record is
accepted, and zeros end the scan.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple, Self

from ether import clock
from ether.checksum import crc32
from ether.errors import JournalError

__all__ = [
    "Damage",
    "Journal",
    "JournalReader",
    "Record",
    "Recovery",
    "drop_segments",
    "hold",
    "sync_data",
    "sync_directory",
]

logger = logging.getLogger(__name__)

MAGIC = b"ETJ1"
SUFFIX = ".etj"
MAX_BODY = 0xFFFFFFFF
_SEGMENT_MAGIC = b"ETHERJNL"
_VERSION = 2
_STEM = struct.Struct("<4sIQBI")
_OVERHEAD = _STEM.size
_pack_stem = _STEM.pack
_SEEDS = 4_294_967_291
"""The largest prime of 32 bits: seeds of two numbers that differ in one bit, or a few, are different."""
_PIECES = 3
"""Of a record that is pending: stem, head, payload."""
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<8sIIQ")
_HEADER_BYTES = _HEADER.size + _CRC.size
_CHUNK = 1 << 20
_SMALL = 1 << 16
"""Records below this, on average, are joined before they are written: copying is cheaper than a longer vector."""
_JOINED = 1 << 18
"""So much of them together, which the processor's cache holds until it is written."""
_SMALLEST_SEGMENT = 1 << 20
_DYING_S = 1.0
"""A process that was killed may take so long to let go of what it held."""
_NAME = re.compile(r"(\d{6,})\.etj\Z")


class Record(NamedTuple):
    """One record as it was appended."""

    number: int
    """0, 1, 2 … through the whole journal."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where committed records cannot be read any more."""

    segment: str
    offset: int
    length: int
    """Bytes that were passed over; 0 where a whole segment is missing."""
    first: int
    """Number of the first record lost."""
    last: int
    """Number of the last record lost; below `first` where only the segment's header is hurt."""
    proven: bool = True
    """Something behind it proves that it had been committed; otherwise a power cut may have torn the last commit."""

    def __str__(self) -> str:
        lost = f"records {self.first} to {self.last} are lost" if self.last >= self.first else "no record is lost"
        if not self.proven:
            lost += ", of a last commit that was perhaps never finished"
        return f"{self.segment}: {self.length} damaged bytes at {self.offset}; {lost}"


@dataclass(slots=True)
class Recovery:
    """What was found when a journal was opened."""

    records: int = 0
    torn_bytes: int = 0
    """Bytes of an unfinished commit that were cut off the end (and kept in a file ``torn-…``)."""
    damage: list[Damage] = field(default_factory=list)


class Journal:
    """Takes records; `commit` returns when all of them are durable. Owned by one thread at a time.

    Opening recovers: a torn tail is cut, damage is copied to ``damaged-…`` and reported, appending goes on behind it.

    Args:
        folder: made if missing; one writer at a time (JournalError otherwise).
        segment_bytes: size of a large segment; the first ones are smaller.
        replay: called with every record found, in order.
        start: number of the first record that is still wanted; what was before it may have been dropped.
        transient: never wait for the disk: what is committed then survives the death of this process, not a power
            cut; and what was dropped is no damage. For outboxes, whose content is needed until it is durable elsewhere.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        segment_bytes: int = 64 << 20,
        replay: Callable[[Record], None] | None = None,
        start: int = 0,
        transient: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.segment_bytes = segment_bytes
        self._start = start
        self._transient = transient
        self.recovery = Recovery()
        self.next_number = 0
        """Number the next record gets."""
        self.durable = 0
        """Every record below this number survives a power cut."""
        self.pending_bytes = 0
        """Bytes appended and not yet durable."""
        self._pending: list[bytes] = []
        self._fd = -1
        self._path: Path | None = None
        self._offset = 0
        self._size = 0
        self._index = 0
        self._lock: IO[bytes] | None = None
        try:
            self._make_folder()
            self._lock = hold(self.folder)
            self._recover(replay)
        except JournalError:
            self.close()
            raise
        except OSError as exc:
            self.close()
            raise _error(exc, self.folder) from exc

    def append(self, head: bytes, payload: bytes = b"") -> int:
        """Take one record, whose body is `head` and `payload` together; return its number. Not durable yet.

        Raises:
            JournalError: the body is over 4 GB.
        """
        number, pending = self.next_number, self._pending
        length = len(head) + len(payload)
        if length > MAX_BODY:
            raise JournalError(errno.EFBIG, f"{self.folder}: a record of {length} bytes; {MAX_BODY} is the most")
        crc = crc32(payload, crc32(head, (number if pending else ~number) % _SEEDS))  # _seed, without a call
        pending += _pack_stem(MAGIC, length, number, not pending, crc), head, payload
        self.pending_bytes += length + _OVERHEAD
        self.next_number = number + 1
        return number

    def commit(self) -> int:
        """Make everything appended durable; return `durable`.

        Raises:
            JournalError: the disk is full or failing (`errno` says which). Nothing is forgotten: what is not yet
                durable stays pending, and a later `commit` tries again, on a fresh descriptor where a sync had failed.
        """
        try:
            while self._pending:
                if self._fd < 0:
                    self._roll()
                fits = self._fitting()
                if not fits:
                    self._leave()
                    continue
                self._write(fits)
        except OSError as exc:
            raise _error(exc, self.folder) from exc
        return self.durable

    def drop(self, before: int) -> int:
        """Remove the segments that hold only records below `before`; return how many went."""
        dropped = drop_segments(self.folder, before)
        if dropped and not self._transient:
            sync_directory(self.folder)
        return dropped

    def close(self) -> None:
        """Let go of the files; what is still pending is not written."""
        if self._fd >= 0:
            self._leave()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # Writing

    def _fitting(self) -> list[bytes]:
        """Return the pieces of the pending records that fit into the current segment."""
        room = self._size - self._offset
        if self.pending_bytes <= room:
            return self._pending
        for place in range(0, len(self._pending), _PIECES):
            room -= sum(map(len, self._pending[place : place + _PIECES]))
            if room < 0:
                return self._pending[:place]
        return self._pending

    def _write(self, pieces: list[bytes]) -> None:
        size = self.pending_bytes if pieces is self._pending else sum(map(len, pieces))
        count = len(pieces) // _PIECES
        try:
            if size < count * _SMALL:
                step, offset = _PIECES * (1 + count * _JOINED // size), self._offset
                for first in range(0, len(pieces), step):
                    joined = b"".join(pieces[first : first + step])
                    _write_one(self._fd, offset, joined)
                    offset += len(joined)
            else:
                _write_all(self._fd, self._offset, pieces)
        except OSError:
            self._cut_back()
            raise
        try:
            if not self._transient:
                sync_data(self._fd)
        except OSError:
            # After a failed sync the kernel may have dropped the pages and report success next time
            # (the PostgreSQL lesson of 2018): never ask the same descriptor again; write anew elsewhere.
            self._abandon()
            raise
        self._offset += size
        self.durable += count
        self.pending_bytes -= size
        self._pending = self._pending[len(pieces) :]

    def _cut_back(self) -> None:
        """Undo a half-written commit, so that neither space nor half a record stays."""
        try:
            os.ftruncate(self._fd, self._offset)
            _preallocate(self._fd, self._size)
        except OSError:
            self._size = self._offset  # no room here any more: the next commit asks for a new segment
            logger.debug("cannot take back a half-written commit", exc_info=True)

    def _abandon(self) -> None:
        fd, self._fd, self._path = self._fd, -1, None
        try:
            os.close(fd)
        except OSError:
            logger.debug("closing a failing segment failed too", exc_info=True)

    def _leave(self) -> None:
        """Close the current segment, giving back what it does not use."""
        try:
            os.ftruncate(self._fd, self._offset)
        except OSError:
            logger.debug("cannot trim %s", self._path, exc_info=True)
        self._abandon()

    def _roll(self) -> None:
        """Begin a new segment, large enough for the first pending record at least."""
        index = self._index + 1
        need = _HEADER_BYTES + sum(map(len, self._pending[:_PIECES]))
        size = max(need, self._usual_size(index))
        path = self.folder / f"{index:06d}{SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        try:
            while True:
                try:
                    _preallocate(fd, size)
                    break
                except OSError as exc:
                    smaller = max(need, size // 4)
                    if exc.errno != errno.ENOSPC or smaller == size or smaller < min(need, _SMALLEST_SEGMENT):
                        raise
                    size = smaller
            header = _HEADER.pack(_SEGMENT_MAGIC, _VERSION, index, self.durable)
            _write_all(fd, 0, [header + _CRC.pack(crc32(header))])
            if not self._transient:
                os.fsync(fd)
                sync_directory(self.folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._path, self._index, self._offset, self._size = fd, path, index, _HEADER_BYTES, size

    def _usual_size(self, index: int) -> int:
        """Return the size of a segment in bytes: 4, 8, 16, 32, 64 MiB, so that a short session takes little."""
        return min(self.segment_bytes, (4 << 20) << min(index - 1, 4))

    # Opening

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._transient:
                sync_directory(self.folder.parent)

    def _recover(self, replay: Callable[[Record], None] | None) -> None:
        torn = self._cut_unfinished()
        reader = JournalReader(self.folder, dropped=self._transient, start=self._start)
        try:
            while records := reader.read():
                self.recovery.records += len(records)
                if replay is not None:
                    for record in records:
                        replay(record)
            self.recovery.damage = reader.damage
            self.next_number = self.durable = reader.next_number
            end = reader.end
        finally:
            reader.close()
        for damage in self.recovery.damage:
            self._quarantine("damaged", damage.segment, damage.offset, damage.length)
            logger.error("journal %s: %s", self.folder, damage)
        segments = _segments(self.folder)
        self._index = _index(segments[-1]) if segments else 0
        if segments:
            self._continue(segments[-1], end)
        for body in torn:
            record = Record(self.append(body), body)
            self.recovery.records += 1
            if replay is not None:
                replay(record)
        self.commit()

    def _cut_unfinished(self) -> list[bytes]:
        """Take a last commit of which a power cut left only some parts off the end; return the bodies that are whole.

        They are committed anew, since a hole before the next commit would look like damage to what was committed.
        """
        segments = _segments(self.folder)
        if not segments:
            return []
        with contextlib.closing(_Segment(segments[-1])) as segment:
            while segment.take(4096, _CHUNK):
                pass
            hole = segment.offset
            found = segment.resync(0, proven=False)
            if found is None or segment.resync(0, proven=True) is not None:
                return []
            bodies = []
            while found is not None:
                segment.offset = found[0]
                while records := segment.take(4096, _CHUNK):
                    bodies += [record.body for record in records]
                found = segment.resync(0, proven=False)
        used = _used(segments[-1], hole)
        self.recovery.torn_bytes = used - hole
        self._quarantine("torn", segments[-1].name, hole, used - hole)
        logger.warning("journal %s: the last commit has a hole; %d of its records are whole", self.folder, len(bodies))
        os.truncate(segments[-1], hole)
        return bodies

    def _continue(self, path: Path, end: tuple[Path | None, int]) -> None:
        """Go on appending to the last segment behind its last good record; remove one that never came to life."""
        offset = end[1] if end[0] == path else _HEADER_BYTES
        size = max(path.stat().st_size, self._usual_size(self._index))
        torn = _used(path, offset)
        if torn > offset:
            self.recovery.torn_bytes = torn - offset
            self._quarantine("torn", path.name, offset, torn - offset)
            logger.warning("journal %s: cut an unfinished commit of %d bytes", self.folder, torn - offset)
        if _first_number(path) is None and offset == _HEADER_BYTES:
            path.unlink()
            sync_directory(self.folder)
            self._index -= 1
            return
        fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        os.ftruncate(fd, offset)
        try:
            _preallocate(fd, max(size, offset))
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                os.close(fd)
                raise
            size = offset
        os.fsync(fd)
        self._fd, self._path, self._offset, self._size = fd, path, offset, max(size, offset)

    def _quarantine(self, why: str, segment: str, offset: int, length: int) -> None:
        """Keep a copy of bytes that are no records: nothing is ever thrown away unseen."""
        if not length:
            return
        target = self.folder / f"{why}-{segment}-{offset}"
        try:
            with open(self.folder / segment, "rb") as source, open(target, "wb") as copy:
                source.seek(offset)
                while length > 0 and (piece := source.read(min(length, _CHUNK))):
                    copy.write(piece)
                    length -= len(piece)
        except OSError:  # on a full disk the copy is a luxury
            logger.warning("journal %s: no copy of the damaged bytes could be kept", self.folder, exc_info=True)


class JournalReader:
    """Reads a journal in order, from this or another process.

    Args:
        live: the journal is being written: an unreadable end means "not yet". Records may then be seen shortly
            before they are durable. Otherwise the end is the end.
        dropped: what was before the first segment that is there has been dropped on purpose.
        start: number of the first record to return; those before it may have been dropped.

    Attributes:
        next_number: number of the record expected next.
        damage: what could not be read so far.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, live: bool = False, dropped: bool = False, start: int = 0
    ) -> None:
        self.folder = Path(folder)
        self.live = live
        self._dropped = dropped
        self.next_number = start
        self.damage: list[Damage] = []
        self._segment: _Segment | None = None

    @property
    def end(self) -> tuple[Path | None, int]:
        """Segment and offset behind the last good record."""
        return (None, 0) if self._segment is None else (self._segment.path, self._segment.offset)

    def read(self, limit: int = 4096, limit_bytes: int = 8 << 20) -> list[Record]:
        """Return the next records, `limit` or about `limit_bytes` at most; an empty list where there are none (yet).

        Raises:
            JournalError: the folder is no journal, or of a later version.
        """
        try:
            while True:
                if self._segment is None and not self._advance():
                    return []
                segment = self._segment
                assert segment is not None
                if found := segment.take(limit, limit_bytes):
                    if fresh := self._in_order(found, segment.path.name):
                        return fresh
                elif not self._skip_damage(segment) and not self._advance():
                    return []
        except JournalError:
            raise
        except OSError as exc:
            raise _error(exc, self.folder) from exc

    def __iter__(self) -> Iterator[Record]:
        while records := self.read():
            yield from records

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _in_order(self, found: list[Record], segment: str) -> list[Record]:
        """Return the records that are new; note numbers that are missing."""
        expected = self.next_number
        if found[0].number == expected and found[-1].number == expected + len(found) - 1:
            self.next_number = expected + len(found)
            return found
        fresh = []
        for record in found:
            if record.number < self.next_number:
                continue  # written twice: a sync had failed in between
            if record.number > self.next_number:
                self.damage.append(Damage(segment, 0, 0, self.next_number, record.number - 1))
            self.next_number = record.number + 1
            fresh.append(record)
        return fresh

    def _skip_damage(self, segment: _Segment) -> bool:
        """Move behind damage to the next good record of this segment; False where none follows."""
        growing = self.live and not segment.finished
        if growing and segment.blank():
            return False
        found = segment.resync(self.next_number, proven=growing)
        if found is not None and growing:
            # The commit that proves the damage was written after the first look: all before it is whole only now.
            if segment.whole():
                return True
            found = segment.resync(self.next_number, proven=False)
        if found is None:
            return False
        offset, number = found
        if number > self.next_number:
            length = offset - segment.offset
            proven = (
                growing
                or any(_index(path) > segment.index for path in _segments(self.folder))
                or segment.resync(self.next_number, proven=True) is not None
            )
            self.damage.append(Damage(segment.path.name, segment.offset, length, self.next_number, number - 1, proven))
            self.next_number = number
        segment.offset = offset
        return True

    def _advance(self) -> bool:
        """Move to the next segment; False while there is none."""
        segments = _segments(self.folder)
        if not segments and not self.folder.is_dir():
            raise JournalError(errno.ENOENT, f"{self.folder}: no such journal")
        index = 0 if self._segment is None else self._segment.index
        following = [path for path in segments if _index(path) > index]
        if not following:
            return False
        if self._segment is not None:
            if self.live and not self._segment.finished:
                # The next segment exists, so this one is finished: look once more, for what came since the last look.
                self._segment.finished = True
                return True
            self._segment.close()
        elif self._dropped:
            self.next_number = _first_number(following[0]) or 0
        elif self.next_number:
            while len(following) > 1 and (_first_number(following[1]) or self.next_number + 1) <= self.next_number:
                following.pop(0)
        self._segment = _Segment(following[0])
        if (hurt := self._segment.check_header()) and not self.live:
            self.damage.append(Damage(following[0].name, 0, _HEADER_BYTES, hurt, hurt - 1))
        return True


class _Segment:
    """The records of one segment file; may be asked again when the file has grown."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = _index(path)
        self.offset = _HEADER_BYTES
        self.finished = False
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._data = b""
        self._base = 0

    def close(self) -> None:
        self._file.close()

    def check_header(self) -> int:
        """Return 0 for a good or empty header, 1 for a hurt one; JournalError for a later version."""
        head = self._read(0, _HEADER_BYTES)
        if not head.strip(b"\0"):
            return 0
        if len(head) < _HEADER_BYTES or crc32(head[:-4]) != _CRC.unpack(head[-4:])[0]:
            return 1
        magic, version, _, _ = _HEADER.unpack(head[:-4])
        if magic == _SEGMENT_MAGIC and version != _VERSION:
            age = "a later" if version > _VERSION else "an earlier"
            what = f"a journal of version {version}; this ether reads {_VERSION}, recover it with {age} one"
            raise JournalError(errno.EINVAL, f"{self.path}: {what}")
        return 0

    def take(self, limit: int, limit_bytes: int) -> list[Record]:
        """Return the good records from `offset` on and move behind them; an empty list where there is none."""
        found: list[Record] = []
        fresh = False
        if not self._base <= self.offset <= self._base + len(self._data) - _OVERHEAD:
            if not self.probe():
                return found
            self._load(_CHUNK)
            fresh = True
        self._parse_many(found, limit, limit_bytes)
        wanted = 0 if found else self._wanted()
        if not found and (not fresh or wanted > len(self._data)) and self.probe():
            # What is held may be older than the file, or too short for this record.
            self._load(max(_CHUNK, wanted))
            self._parse_many(found, limit, limit_bytes)
        if not found:
            self._data = b""
        return found

    def _parse_many(self, found: list[Record], limit: int, limit_bytes: int) -> None:
        data, position = self._data, self.offset - self._base
        stop = min(len(data), position + limit_bytes)
        unpack, last = _STEM.unpack_from, len(data) - _OVERHEAD
        with memoryview(data) as view:
            while position <= last and len(found) < limit and (position < stop or not found):
                magic, length, number, first, crc = unpack(data, position)
                body = position + _OVERHEAD
                end = body + length
                if magic != MAGIC or end > len(data) or crc32(view[body:end], _seed(number, first)) != crc:
                    break
                found.append(Record(number, data[body:end]))
                position = end
        self.offset = self._base + position

    def probe(self) -> bool:
        """Return whether something like a record begins at `offset`; cheap."""
        return self._read(self.offset, 4) == MAGIC

    def blank(self) -> bool:
        """Return whether nothing at all is written at `offset` yet."""
        return not self._read(self.offset, _OVERHEAD).strip(b"\0")

    def whole(self) -> bool:
        """Return whether a good record stands at `offset` now."""
        self._load(max(_CHUNK, self._wanted()))
        return self._parse(0) is not None

    def resync(self, at_least: int, *, proven: bool) -> tuple[int, int] | None:
        """Return offset and number of the next good record behind `offset`.

        Args:
            at_least: lowest number that counts.
            proven: return it only if a commit that follows proves that the damage is none of a commit under way.
        """
        start = self.offset + 1
        found: tuple[int, int] | None = None
        kept = self.offset
        try:
            while True:
                data = self._read(start, _CHUNK)
                place = data.find(MAGIC)
                if place < 0:
                    if len(data) < _CHUNK:
                        return None
                    start += len(data) - len(MAGIC) + 1
                    continue
                self.offset = start + place
                self._load(max(_CHUNK, self._wanted()))
                parsed = self._parse(0)
                if parsed is None or parsed[0].number < at_least:
                    start = self.offset + 1
                    continue
                record, first, end = parsed
                found = found or (self.offset, record.number)
                if not proven or first:
                    return found
                start = self.offset + end
        finally:
            self.offset = kept
            self._data = b""

    def _parse(self, position: int) -> tuple[Record, int, int] | None:
        """Return the record at `position` of what is held, whether it is the first of a commit, and its end."""
        data, body = self._data, position + _OVERHEAD
        if body > len(data):
            return None
        magic, length, number, first, crc = _STEM.unpack_from(data, position)
        end = body + length
        if magic != MAGIC or end > len(data):
            return None
        with memoryview(data) as view:
            if crc32(view[body:end], _seed(number, first)) != crc:
                return None
        return Record(number, data[body:end]), first, end

    def _wanted(self) -> int:
        """Return the bytes the record at `offset` claims; at most what the file holds."""
        stem = self._read(self.offset, _STEM.size)
        if len(stem) < _STEM.size:
            return 0
        length: int = _STEM.unpack(stem)[1]
        left = os.fstat(self._file.fileno()).st_size - self.offset
        return length + _OVERHEAD if length + _OVERHEAD <= left else 0

    def _load(self, size: int) -> None:
        self._base = self.offset
        self._data = self._read(self.offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(size)
        while data and len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        return data


def drop_segments(folder: Path, before: int) -> int:
    """Remove the segments of a journal that hold only records below `before`, never the last; return how many went.

    Another process may be appending meanwhile.
    """
    dropped = 0
    for path, following in pairwise(_segments(folder)):
        first = _first_number(following)
        if first is None or first > before:
            break
        path.unlink()
        dropped += 1
    return dropped


def sync_data(fd: int) -> None:
    """Return when what was written to `fd` survives a power cut."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # macOS' own fsync stops at the drive's cache
    elif hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def sync_directory(folder: str | os.PathLike[str]) -> None:
    """Return when creations, renames and removals in `folder` survive a power cut."""
    if os.name == "nt":  # directories cannot be opened there; NTFS journals its metadata itself
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _segments(folder: Path) -> list[Path]:
    try:
        return sorted((path for path in folder.iterdir() if _NAME.match(path.name)), key=_index)
    except FileNotFoundError:
        return []


def _index(path: Path) -> int:
    found = _NAME.match(path.name)
    return int(found.group(1)) if found else 0


def _first_number(path: Path) -> int | None:
    """Return the number of a segment's first record; None where its header is not whole."""
    with open(path, "rb") as file:
        head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or crc32(head[:-4]) != _CRC.unpack(head[-4:])[0]:
        return None
    number: int = _HEADER.unpack(head[:-4])[3]
    return number


def _used(path: Path, offset: int) -> int:
    """Return the offset behind the last byte that is not zero, `offset` at least."""
    last = offset
    with open(path, "rb") as file:
        file.seek(offset)
        while piece := file.read(_CHUNK):
            if kept := len(piece.rstrip(b"\0")):
                last = offset + kept
            offset += len(piece)
    return last


def _seed(number: int, first: int) -> int:
    """Return what the crc of a record begins with: of its number, inverted in the first of a commit."""
    return (number ^ -first) % _SEEDS  # not like that for any other, damaged, mark


def _write_one(fd: int, offset: int, piece: bytes) -> None:
    if not hasattr(os, "pwrite") or os.pwrite(fd, piece, offset) < len(piece):
        _write_all(fd, offset, [piece])


def _write_all(fd: int, offset: int, pieces: list[bytes]) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    batch: list[memoryview] = []
    for piece in pieces:
        batch.append(memoryview(piece))
        if len(batch) == 512:  # IOV_MAX is 1024 on Linux, 16 at least by POSIX
            _write_vector(fd, batch)
            batch = []
    _write_vector(fd, batch)


def _write_vector(fd: int, batch: list[memoryview]) -> None:
    while batch:
        written = os.writev(fd, batch) if hasattr(os, "writev") else os.write(fd, batch[0])
        while batch and written >= len(batch[0]):
            written -= len(batch.pop(0))
        if batch and written:
            batch[0] = batch[0][written:]


def _preallocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as exc:
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)


def hold(folder: Path, name: str = "lock", timeout: float = _DYING_S) -> IO[bytes] | None:
    """Hold a journal until the returned file is closed, or this process dies; wait for whoever is about to let go.

    Returns:
        None on a system without such locks.

    Raises:
        JournalError: another one has held it for `timeout` seconds.
        FileNotFoundError: there is no such folder.
    """
    try:
        import fcntl
    except ImportError:
        return None
    file = open(folder / name, "ab")  # noqa: SIM115 - the caller closes it
    deadline = clock.monotonic() + timeout
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if clock.monotonic() > deadline:
                file.close()
                raise JournalError(exc.errno, f"{folder}: another process writes this journal") from exc
            threading.Event().wait(0.02)
        else:
            return file


def _error(exc: OSError, folder: Path) -> JournalError:
    reason = exc.strerror or str(exc)
    if exc.errno == errno.ENOSPC:
        reason = "the disk is full"
    return JournalError(exc.errno, f"{exc.filename or folder}: {reason}")
