"""What the recorder's journal holds: one entry a record, packed small and never parsed on the way in."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ether import clock, topics
from ether.errors import JournalError
from ether.journal import Record

__all__ = [
    "ANSWERS_KEPT",
    "DUP",
    "LOSSES",
    "QOS",
    "RESENT",
    "RETAIN",
    "Entry",
    "Kind",
    "head",
    "journal_folder",
    "note",
    "unpack",
]

QOS = 3
"""Mask of the quality of service in `Entry.flags`."""
RETAIN = 4
DUP = 8
RESENT = 16
"""Came on `ether/resend/…`; the entry's topic is the data topic."""

ANSWERS_KEPT = 10_000
"""So many annotations are remembered that were confirmed, to know them when they come again."""
LOSSES = ("dropped", "unstored", "missed")
"""Counts in a status that tell of losses: given up, not kept for sending again, never sampled. A change is news."""

_HEAD = struct.Struct("<BBqqH")


class Kind(IntEnum):
    """What an entry is."""

    MESSAGE = 0
    """One PUBLISH: topic and payload as they came."""
    SESSION = 1
    """JSON: the orders and host of an ingest that began to write."""
    EVENT = 2
    """JSON ``{"level", "message"}``: what the recorder itself has to say."""
    END = 3
    """JSON ``{"reason", "connected"}``: an orderly end; ``reason`` is ``stop`` where it was commanded."""
    DUPLICATES = 4
    """JSON list of ``[by, boot, topic, count]``: messages that came again and were not stored again."""
    RAW_ONLY = 5
    """JSON ``{"number"}``: the message of this record number kills the writer; keep it as bytes only."""
    CLOCK = 6
    """JSON ``{"name", "boot", "ms", "sent_mono", "t_recv", "t_mono"}``: a device's clock as it answered a ping."""
    ROLL = 7
    """JSON ``{}``: the last entry of a part; what follows goes into the next one."""


class Entry(NamedTuple):
    """One entry of the journal."""

    number: int
    """Record number in the journal."""
    kind: int
    flags: int
    t_recv: int
    """When it was received: ns since the Unix epoch, UTC."""
    t_mono: int
    """The same on the recorder's monotonic clock, ns."""
    topic: str
    payload: bytes


@lru_cache(8192)
def _encoded(topic: str) -> bytes:
    return topic.encode("utf-8", "surrogatepass")


def head(kind: int, flags: int, t_recv: int, t_mono: int, topic: str = "") -> bytes:
    """Return what precedes the payload in a record's body."""
    name = _encoded(topic)
    return _HEAD.pack(kind, flags, t_recv, t_mono, len(name)) + name


def note(kind: Kind, content: Any) -> tuple[bytes, bytes]:
    """Return head and payload of an entry of the recorder's own, stamped now."""
    return head(kind, 0, clock.now_ns(), clock.monotonic_ns()), json.dumps(content, default=str).encode()


def unpack(record: Record) -> Entry:
    """Return the entry of a record; JournalError for a record of another kind of journal."""
    number, body = record
    try:
        kind, flags, t_recv, t_mono, size = _HEAD.unpack_from(body)
    except struct.error:
        raise JournalError(f"record {number} is no entry of a recorder's journal") from None
    end = _HEAD.size + size
    return Entry(number, kind, flags, t_recv, t_mono, _decoded(body[_HEAD.size : end]), body[end:])


@lru_cache(8192)
def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def journal_folder(file: Path) -> Path:
    """Return the folder of the journal that belongs to a recording."""
    return file.parent / f".{file.stem}.journal"


def data_topic(topic: str) -> tuple[str, bool]:
    """Return the topic a message belongs to, and whether it came as a second attempt (``ether/resend/<topic>``)."""
    reserved = topics.parse(topic)
    if reserved is not None and reserved.kind == "resend":
        return reserved.name, True
    return topic, False
