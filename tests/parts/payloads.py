"""Payloads of every kind that anybody might publish, and topics that are hard to find a place for."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ether import codecs
from ether.model import Envelope

T0 = 1_795_374_229_000_000_000
TOPICS = ["a", "a/b", "/a", "a/", "//", "log", "data", "messages", "readings", "a/readings", ".", "..", "a/./b", "%2E",
          "ä ö/µ", "x" * 5000, "/".join("l" * 300), "a\nb"]  # fmt: skip


def oven(value: Any, number: int, **more: Any) -> bytes:
    return codecs.encode(value, Envelope("oven", "b1", number, T0 / 1e9 + number, **more))


def nested(depth: int) -> dict[str, Any]:
    return {"d": nested(depth - 1)} if depth else {"leaf": 1.5}


_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
IMAGE = np.arange(12, dtype="uint16").reshape(3, 4)

ZOO: dict[str, list[bytes]] = {
    "none": [oven(None, 0), oven(None, 1)],
    "scalar int": [b"1", b"-7"],
    "scalar float": [b"1.5", b"1e300", b"-0.0"],
    "int64 limits": [b"%d" % (2**63 - 1), b"%d" % -(2**63)],
    "beyond int64": [b"%d" % 2**63, b"1", b"%d" % -(2**63 + 1), b"1" + b"0" * 400],
    "bool": [b"true", b"false"],
    "bool then int": [b'{"a": true}', b'{"a": 3}', b'{"a": false}'],
    "text": ["grün ✓ 温度".encode(), b"on", b""],
    "json text": [b'"on"', b'"off"'],
    "text with NUL": [b'{"a": "x\\u0000y"}', b'{"a": "z"}'],
    "lone surrogate": [b'{"a": "\\ud800"}'],
    "null": [b'{"a": null}', b'{"a": 1}', b'{"a": null}'],
    "null first, text later": [b'{"a": null}', b'{"a": "x"}'],
    "only null": [b'{"a": null}', b'{"a": null}'],
    "nan": [b'{"a": 1.0}', b"NaN", b'{"a": NaN}', b'{"a": Infinity}'],
    "nested": [json.dumps(nested(20)).encode(), b'{"d": 3}'],
    "nested too deep": [b'{"a":' * 3000 + b"1" + b"}" * 3000, b"[" * 5000 + b"]" * 5000],
    "empty object": [b"{}", b'{"a": {}}'],
    "list": [b'{"a": [1, 2, 3]}', b'{"a": [4, 5, 6]}'],
    "list of floats after ints": [b'{"a": [1, 2]}', b'{"a": [1.5, 2]}'],
    "ragged": [b'{"a": [1, 2, 3]}', b'{"a": []}', b'{"a": [1]}', b'{"a": [[1, 2], [3, 4]]}'],
    "ragged inside": [b'{"a": [[1], [2, 3]]}'],
    "mixed list": [b'{"a": [1, "x", null, {"b": 2}]}', b'{"a": ["x"]}', b'{"a": [true, 1]}'],
    "int to float": [b'{"a": 1}', b'{"a": 1.5}', b'{"a": 2}'],
    "int to float, inexact": [b'{"a": 9007199254740993}', b'{"a": 1.5}'],
    "float to text": [b'{"a": 1.5}', b'{"a": "off"}', b'{"a": 2.5}'],
    "number to object": [b'{"a": 1}', b'{"a": {"b": 2}}'],
    "field appears": [b'{"a": 1}', b'{"a": 2, "b": "x"}', b'{"b": "y"}'],
    "odd names": [b'{"": 1, ".": 2, "a/b": 3, "a.b": 4, "a": {"b": 5}, "time": 6, "x__mask": 7, "a@str": 8, "%2E": 9}'],
    "names of ours": [b'{"time": "noon", "number": "five", "message": 1, "publisher": [1]}'],
    "duplicate keys": [b'{"a": 1, "a": 2}'],
    "invalid json": [b'{"a": 1', b"{'a': 1}", b"[1, 2"],
    "invalid utf-8": [b"\xff\xfe\x00", b"\x80abc"],
    "broken cbor": [codecs.CBOR_MAGIC, codecs.CBOR_MAGIC + b"\xff\xff", codecs.CBOR_MAGIC + b"\x9b" + b"\xff" * 8],
    "bytes": [oven({"a": b"\x00\x01"}, 0), oven({"a": b""}, 1), oven({"a": b"\xff" * 100_000}, 2)],
    "array": [oven({"a": np.arange(3.0)}, 0), oven({"a": np.arange(3.0) + 1}, 1)],
    "array of varying shape": [oven({"a": np.ones((2, 3))}, 0), oven({"a": np.ones((1, 2))}, 1),
                               oven({"a": np.ones(2)}, 2)],
    "arrays of all types": [
        oven({kind: np.array([0, 1, 2], kind) for kind in _DTYPES}, 0)
    ],
    "image": [oven({"image": IMAGE, "exposure": 0.1}, 0), oven({"image": IMAGE + 1, "exposure": 0.2}, 1)],
    "empty array": [oven({"a": np.empty((0, 3))}, 0), oven({"a": np.ones((2, 3))}, 1)],
    "batch": [oven({"a": [1, 2, 3], "b": ["x", "y", "z"]}, 0, k=3, dt=0.5), oven({"a": [4.5], "b": ["w"]}, 3, k=1)],
    "batch of arrays": [oven({"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3)}, 0, k=3, dt=0.5)],
    "batch that lies": [oven({"a": [1, 2]}, 0, k=3), oven({"a": 1}, 3, k=2), oven({"a": [1]}, 5, k=10**12)],
    "odd envelopes": [
        b'{"a": 1, "_ether": 5}', b'{"a": 2, "_ether": {"by": 1}}',
        b'{"a": 3, "_ether": {"by": "x", "b": "y", "n": -1}}',
        b'{"a": 4, "_ether": {"by": "x", "b": "y", "n": 0, "t": "noon"}}',
        b'{"_ether": {"by": "x", "b": "y", "n": 1, "t": 1e400}, "a": 5}',
        b'{"a": 6, "_ether": {"by": "x", "b": "y", "n": 2, "t": 1%s, "ms": [], "k": 1}}' % (b"0" * 400),
        b'{"a": 7, "_ether": {"by": "x", "b": "y", "n": 3, "ms": -1e308}}',
    ],
    "many fields": [json.dumps({f"f{n}": n for n in range(1100)}).encode(), b'{"a": 1}'],
    "large blob": [oven({"a": bytes(range(256)) * 80_000}, 0), codecs.CBOR_MAGIC + b"\0" * 20_000_000],
    "large text": [b'"' + b"x" * 1_000_000 + b'"'],
}  # fmt: skip
