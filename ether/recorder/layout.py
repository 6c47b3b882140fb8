"""Names, types and escapes of the HDF5 layout: the one place writer, sealer, reader and verifier agree on."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from ether import topics

__all__ = [
    "FLAG_BATCH",
    "FLAG_DUP",
    "FLAG_HOLLOW",
    "FLAG_NO_NUMBER",
    "FLAG_OUT_OF_ORDER",
    "FLAG_RAW_ONLY",
    "FLAG_REPLAYED",
    "FLAG_RESENT",
    "FLAG_RETAIN",
    "FLAG_UNDECODED",
    "FORMAT",
    "FORMAT_VERSION",
    "LEDGER",
    "NONE_ID",
    "NONE_NS",
    "REPLAY",
    "TABLES",
    "group_path",
    "link_name",
    "text",
]

FORMAT = "ether-h5"
FORMAT_VERSION = 1
REPLAY = "ether.replay"
"""Class of a publisher that repeats a recording."""
NONE_NS = -(1 << 63)
"""No such time."""
NONE_ID = 0xFFFFFFFF
"""No such row."""

FLAG_RETAIN = 1
FLAG_DUP = 2
FLAG_RESENT = 4
FLAG_OUT_OF_ORDER = 8
FLAG_NO_NUMBER = 16
FLAG_UNDECODED = 32
"""The payload could not be decoded, or its fields could not be put into columns: it is in /raw only."""
FLAG_REPLAYED = 64
"""It was published before, and came again out of a recording."""
FLAG_BATCH = 128
FLAG_RAW_ONLY = 256
"""The message had killed the writer three times; it is in /raw only."""
FLAG_HOLLOW = 512
"""/raw has it without the bytes of its large arrays, which its columns hold (see `ether.recorder.hollow`)."""

LEDGER = np.dtype(
    [
        ("jseq", "<u8"), ("t_recv", "<i8"), ("t_mono", "<i8"), ("t_device", "<i8"), ("n", "<i8"),
        ("readings", "<u4"), ("topic", "<u4"), ("publisher", "<u4"), ("schema", "<u4"), ("run", "<u4"),
        ("row", "<i8"), ("raw_offset", "<u8"), ("raw_length", "<u4"), ("crc32", "<u4"),
        ("qos", "u1"), ("encoding", "u1"), ("flags", "<u2"),
    ]
)  # fmt: skip
"""A message a row. `n` and `row` are -1 for none, `t_device` NONE_NS, ids NONE_ID; encoding 0 raw, 1 JSON, 2 CBOR."""

_TEXT = h5py.string_dtype()
_LEVEL = h5py.string_dtype("ascii", 2)  # of fixed length, so that a row can be written again in place
TABLES: dict[str, np.dtype[Any]] = {
    "topics": np.dtype([("id", "<u4"), ("topic", _TEXT)]),
    "publishers": np.dtype(
        [
            ("id", "<u4"), ("name", _TEXT), ("boot", _TEXT), ("class", _TEXT), ("host", _TEXT), ("pid", "<i8"),
            ("level", _LEVEL), ("received", "<i8"), ("missing", "<i8"), ("duplicates", "<i8"),
        ]
    ),
    "accounts": np.dtype(
        [
            ("publisher", "<u4"), ("topic", "<u4"), ("first", "<i8"), ("last", "<i8"), ("announced", "<i8"),
            ("received", "<i8"), ("missing", "<i8"), ("duplicates", "<i8"), ("from_start", "u1"), ("level", _LEVEL),
        ]
    ),
    "gaps": np.dtype(
        [("publisher", "<u4"), ("topic", "<u4"), ("first", "<i8"), ("last", "<i8"), ("reason", _TEXT)]
    ),
    "schemas": np.dtype(
        [("id", "<u4"), ("topic", "<u4"), ("version", "<u4"), ("t", "<i8"), ("origin", _TEXT), ("fields", _TEXT)]
    ),
    "runs": np.dtype(
        [
            ("id", _TEXT), ("name", _TEXT), ("number", "<i8"), ("parent", _TEXT), ("started", "<i8"),
            ("stopped", "<i8"), ("outcome", _TEXT), ("metadata", _TEXT), ("by", _TEXT),
        ]
    ),
    "annotations": np.dtype(
        [
            ("t0", "<i8"), ("t1", "<i8"), ("t_recv", "<i8"), ("text", _TEXT), ("by", _TEXT), ("tags", _TEXT),
            ("values", _TEXT), ("run", "<u4"),
        ]
    ),
    "status": np.dtype(
        [("t", "<i8"), ("t_recv", "<i8"), ("name", _TEXT), ("boot", _TEXT), ("state", _TEXT), ("detail", _TEXT),
         ("replay", "u1")]
    ),
    "log": np.dtype([("t", "<i8"), ("name", _TEXT), ("level", _TEXT), ("logger", _TEXT), ("message", _TEXT)]),
    "calls": np.dtype(
        [
            ("t", "<i8"), ("id", _TEXT), ("target", _TEXT), ("method", _TEXT), ("caller", _TEXT), ("params", _TEXT),
            ("status", _TEXT), ("result", _TEXT), ("duration_ns", "<i8"),
        ]
    ),
    "clocks": np.dtype(
        [
            ("t_recv", "<i8"), ("t_mono", "<i8"), ("what", _TEXT), ("name", _TEXT), ("boot", _TEXT),
            ("device_ns", "<i8"), ("round_trip_ns", "<i8"),
        ]
    ),
    "provenance/instances": np.dtype(
        [
            ("t", "<i8"), ("name", _TEXT), ("boot", _TEXT), ("class", _TEXT), ("source", _TEXT), ("host", _TEXT),
            ("pid", "<i8"), ("version", _TEXT), ("file", _TEXT), ("args", _TEXT), ("kwargs", _TEXT), ("about", _TEXT),
        ]
    ),
    "checksums": np.dtype([("path", _TEXT), ("sha256", _TEXT)]),
}  # fmt: skip
"""The tables, one compound dataset each. Times are ns since the Unix epoch, NONE_NS for none."""

FIXED = ("time", "time_device", "time_error", "message", "number", "publisher")
"""Columns every stream has; a field of such a name is stored as ``<name>@field``."""
MASK, OFFSETS, SHAPE = "__mask", "__offsets", "__shape"
VALID, NULL, ABSENT, ELSEWHERE = 0, 1, 2, 3
"""What a mask says: a value; None; no such field in this message; not representable here (a sibling or /raw has it)."""

_LEAF = "readings"


def group_path(topic: str) -> str:
    """Return the path of a topic's group. Two topics never share one.

    A level becomes a group of its name; ``%`` and what HDF5 or this layout reserve are escaped as in URLs.
    """
    return "/data/" + "/".join(map(_level, topics.levels(topic))) + "/" + _LEAF


def _level(level: str) -> str:
    if level == "":
        return "%00"
    if level in (".", "..", _LEAF):
        return "".join(f"%{ord(letter):02X}" for letter in level)
    return text(level.replace("%", "%25"))


def link_name(field: tuple[str, ...] | str) -> str:
    """Return the dataset name of a field, given as its keys from outside in. Two fields never share one.

    Keys are joined by dots; dots, slashes, ``@`` and ``%`` inside a key are escaped.
    """
    keys = (field,) if isinstance(field, str) else field
    name = ".".join(map(_key, keys))
    for suffix in (MASK, OFFSETS, SHAPE):
        if name.endswith(suffix):
            name = name[: -len(suffix)] + "%5F" + suffix[1:]
    return f"{name}@field" if name in FIXED else name


def field_name(link: str) -> str:
    """Return what readers call the column of a dataset name: its field's own name.

    Only a field ``time`` keeps its suffix, since every table of readings has a ``time`` of its own.
    """
    name = link.removesuffix("@field")
    return name if name in FIXED and name != "time" else link


def _key(key: str) -> str:
    if not key:
        return "%"
    for letter in "%/.@\0":
        key = key.replace(letter, f"%{ord(letter):02X}")
    return text(key)


def text(value: object) -> str:
    """Return text that HDF5 can hold: no NUL, no lone surrogates."""
    string = value if isinstance(value, str) else str(value)
    if "\0" in string:
        string = string.replace("\0", "\N{SYMBOL FOR NULL}")
    try:
        string.encode()
    except UnicodeEncodeError:
        string = string.encode("utf-8", "backslashreplace").decode()
    return string
