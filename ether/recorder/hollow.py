"""Payloads without the bytes that columns hold, so that an image or a batch is in the file once.

The typed arrays and byte strings of a CBOR payload that are fields of it, of `LEAST` bytes or more, go into columns as
they are. `/raw` has such a payload without them, flagged `FLAG_HOLLOW`; CBOR itself says where they were and how long.
A payload that is bytes and nothing else, as a picture that a foreign camera sends, is a column as a whole; `/raw` has
nothing of it then.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np

from ether import codecs
from ether.recorder.layout import FLAG_HOLLOW, MASK, OFFSETS, group_path

__all__ = ["LEAST", "Columns", "Hole", "hollowed", "raw_payloads"]

logger = logging.getLogger(__name__)

LEAST = 64
_WINDOW_BYTES = 512 << 10
_POOL_BYTES = 4 << 20
_MOST_COLUMNS = 100
_MOST_DEPTH = 32
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG = range(7)
_SHAPED = 40
"""The tag of an array of several dimensions: its shape, and its elements."""
Keys = tuple[str, ...]


class Hole(NamedTuple):
    """Bytes of a payload that a column holds."""

    keys: Keys
    """Of the field, from outside in."""
    place: int
    """Where they begin, or are missing."""
    length: int
    dtype: str
    """As they travel; empty for a byte string."""


_ANY = -1
_WHOLE = Hole(("value",), 0, _ANY, "")
"""All of a payload."""


def hollowed(payload: bytes) -> bytes | None:
    """Return a payload without the bytes that columns hold; None where there are none, or CBOR that is not plain."""
    if not payload.startswith(codecs.CBOR_MAGIC):
        return None if _is_text(payload) else b""
    holes = _holes(payload, hollow=False)
    if not holes:
        return None
    pieces, start = [], 0
    for hole in holes:
        pieces.append(payload[start : hole.place])
        start = hole.place + hole.length
    return b"".join([*pieces, payload[start:]])


def _is_text(payload: bytes) -> bool:
    """Return whether a payload is text or JSON to `codecs.decode`, which takes anything else for bytes."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _holes(payload: bytes, *, hollow: bool) -> list[Hole]:
    if not payload.startswith(codecs.CBOR_MAGIC):
        return []
    walk = _Walk(payload, hollow)
    try:
        walk.item((), 0)
    except (ValueError, IndexError):
        return []
    return walk.found if walk.place == len(payload) else []


class _Walk:
    """Passes through one CBOR item without decoding it; ValueError for what our decoder may read in another way."""

    def __init__(self, payload: bytes, hollow: bool) -> None:
        self.payload = payload
        self.hollow = hollow
        self.place = len(codecs.CBOR_MAGIC)
        self.found: list[Hole] = []
        self._fields: set[Keys] = set()

    def _head(self) -> tuple[int, int]:
        first = self.payload[self.place]
        major, number = first >> 5, first & 31
        self.place += 1
        if number >= 28:
            raise ValueError("of a length that is not told")
        if number >= 24:
            size = 1 << (number - 24)
            number = int.from_bytes(self.payload[self.place : self.place + size], "big")
            self.place += size
        return major, number

    def item(self, keys: Keys | None, depth: int) -> None:
        """Pass one item, the field of these keys; None for what is no field."""
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        major, number = self._head()
        if major == _BYTES:
            self._bytes(keys, number, "")
        elif major == _TEXT:
            self.place += number
        elif major == _LIST:
            for _ in range(number):
                self.item(None, depth + 1)
        elif major == _MAP:
            for _ in range(number):
                self.item(self._field(keys), depth + 1)
        elif major == _TAG:
            self._tagged(keys, number, depth)

    def _field(self, above: Keys | None) -> Keys | None:
        major, size = self._head()
        if major != _TEXT:
            raise ValueError("a key that is no text")
        name = self.payload[self.place : self.place + size].decode()
        self.place += size
        if above is None or (above == () and name == "_ether"):
            return None
        keys = (*above, name)
        if keys in self._fields:
            raise ValueError("a field twice")
        self._fields.add(keys)
        return keys

    def _tagged(self, keys: Keys | None, tag: int, depth: int) -> None:
        if tag == _SHAPED and self._head() == (_LIST, 2):
            self.item(None, depth + 1)
            major, tag = self._head()
            if major != _TAG:
                raise ValueError("an array of something else")
        dtype = codecs.DTYPE_OF_TAG.get(tag)
        if dtype is None:
            self.item(None, depth + 1)
            return
        major, number = self._head()
        if major != _BYTES:
            raise ValueError("an array without bytes")
        self._bytes(keys, number, dtype)

    def _bytes(self, keys: Keys | None, length: int, dtype: str) -> None:
        missing = bool(keys) and length >= LEAST
        if keys and missing:
            self.found.append(Hole(keys, self.place, length, dtype))
        if not (missing and self.hollow):
            self.place += length


class Columns:
    """The columns of one topic, as far as they hold what payloads lack."""

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self._of: dict[Keys, list[tuple[str, bool]]] = {}
        """Field to names of its columns, and whether they are of byte strings."""
        self._datasets: dict[str, h5py.Dataset | None] = {}
        self._windows: dict[str, tuple[int, np.ndarray]] = {}
        for name, dataset in group.items():
            field = dataset.attrs.get("field")
            if field is not None and dataset.dtype.kind in "iufb":
                self._of.setdefault(tuple(json.loads(field)), []).append((name, dataset.attrs["kind"] == "bytes"))

    def forget(self) -> None:
        """Look anew: rows have been added."""
        self._windows.clear()
        self._datasets.clear()

    def filled(self, payload: bytes, row: int, rows: int) -> bytes:
        """Return the payload that `hollowed` was given, whose readings are these rows.

        Raises:
            ValueError: the columns do not hold it.
        """
        if not payload:
            return self._bytes(_WHOLE, row, rows)
        pieces: list[bytes] = []
        start = 0
        for hole in _holes(payload, hollow=True):
            pieces += (payload[start : hole.place], self._bytes(hole, row, rows))
            start = hole.place
        return b"".join([*pieces, payload[start:]])

    def _bytes(self, hole: Hole, row: int, rows: int) -> bytes:
        for name, of_bytes in self._of.get(hole.keys, ()):
            mask = self._rows(name + MASK, row, row + rows)
            if of_bytes == bool(hole.dtype) or (mask is not None and mask.any()):
                continue
            first, last = row, row + rows
            if (ends := self._rows(name + OFFSETS, first, last + 1)) is not None:
                first, last = int(ends[0]), int(ends[-1])
            values = self._rows(name, first, last)
            assert values is not None
            found = np.ascontiguousarray(values.astype(hole.dtype or "u1", copy=False)).tobytes()
            if hole.length in (len(found), _ANY):
                return found
        raise ValueError(f"no column holds the bytes of {'.'.join(hole.keys)}")

    def _rows(self, name: str, first: int, last: int) -> np.ndarray | None:
        """Return rows of a dataset, reading ahead: messages come in the order of their rows. None where it is not."""
        if name not in self._datasets:
            self._datasets[name] = self._group.get(name)
        dataset = self._datasets[name]
        if dataset is None:
            return None
        begin, held = self._windows.get(name, (0, None))
        if held is None or first < begin or last > begin + len(held):
            row_bytes = max(1, dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
            end = max(last, first + _WINDOW_BYTES // row_bytes)
            begin, held = first, dataset[first:end]
            self._windows[name] = begin, held
        return np.asarray(held[first - begin : last - begin])


def raw_payloads(recording: h5py.File) -> Iterator[tuple[int, int, bytes]]:
    """Yield row, checksum and bytes of every message in the ledger, reading /raw in blocks.

    Bytes that are not what was received do not match the checksum.
    """
    ledger, raw = recording["messages"], recording["raw"]
    filler = _Filler(recording)
    for start in range(0, len(ledger), 20_000):
        rows = ledger[start : start + 20_000]
        offsets = rows["raw_offset"].astype("<i8")
        lengths = rows["raw_length"].astype("<i8")
        place = 0
        while place < len(rows):
            last = place + 1
            while last < len(rows) and offsets[last] + lengths[last] - offsets[place] <= _POOL_BYTES:
                last += 1
            base = int(offsets[place])
            pool = raw[base : int(offsets[last - 1] + lengths[last - 1])].tobytes()
            for row in range(place, last):
                begin = int(offsets[row]) - base
                payload = pool[begin : begin + int(lengths[row])]
                if rows["flags"][row] & FLAG_HOLLOW:
                    payload = filler.filled(payload, rows[row])
                yield start + row, int(rows["crc32"][row]), payload
            place = last


class _Filler:
    """Puts back into payloads what the columns of their topics hold."""

    def __init__(self, recording: h5py.File) -> None:
        self._recording = recording
        self._topics: list[bytes] = []
        self._columns: dict[int, Columns] = {}

    def filled(self, payload: bytes, row: np.void) -> bytes:
        topic = int(row["topic"])
        try:
            if topic not in self._columns:
                if len(self._columns) >= _MOST_COLUMNS:
                    self._columns.clear()
                self._topics = self._topics or list(self._recording["topics"].fields("topic")[:])
                self._columns[topic] = Columns(self._recording[group_path(self._topics[topic].decode())])
            return self._columns[topic].filled(payload, int(row["row"]), int(row["readings"]))
        except (ValueError, LookupError, OSError, TypeError) as exc:
            logger.debug("a message on topic %d cannot be put together: %s", topic, exc)
            return payload
