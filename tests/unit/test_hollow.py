"""Payloads leave the bytes of their arrays to the columns, and get every one of them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import cbor2
import h5py
import numpy as np
import pytest

from ether import codecs
from ether.journal import Journal
from ether.model import Envelope
from ether.recorder import layout, seal
from ether.recorder.entries import Kind, head, journal_folder, note
from ether.recorder.hollow import hollowed
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify

RANDOM = np.random.default_rng(4)
IMAGE = RANDOM.integers(0, 65_535, (40, 30), "u2")
SIGNALLING = np.frombuffer(b"\x01\x00\xa0\x7f" * 100, "<f4")  # NaNs that a conversion to float64 changes


def says(number: int, fields: dict[str, Any], **more: Any) -> bytes:
    return codecs.encode(fields, Envelope("camera", "b1", number, 1.0, **more))


def cbor(content: Any) -> bytes:
    return codecs.CBOR_MAGIC + cbor2.dumps(content)


def big_endian(array: np.ndarray, tag: int) -> Any:
    return cbor2.CBORTag(
        40, [list(array.shape), cbor2.CBORTag(tag, array.astype(array.dtype.newbyteorder(">")).tobytes())]
    )


CASES: dict[str, tuple[list[bytes], list[bool]]] = {
    "images": ([says(n, {"image": IMAGE + n, "exposure": 0.1}) for n in range(3)], [True] * 3),
    "of another size": ([says(0, {"image": IMAGE}), says(1, {"image": IMAGE[:20]}), says(2, {"image": IMAGE})], [True] * 3),
    "of another type": ([says(0, {"image": IMAGE}), says(1, {"image": IMAGE / 3}), says(2, {"image": "none"})],
                        [True, True, False]),
    "nested": ([says(0, {"a": {"b": {"c": np.arange(99)}, "d": b"x" * 99}})], [True]),
    "bytes": ([says(n, {"jpeg": RANDOM.bytes(1000 + n)}) for n in range(3)], [True] * 3),
    "of all types": ([says(0, {kind: np.arange(100).astype(kind) for kind in
                               ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")})], [True]),
    "small": ([says(0, {"a": np.arange(3)})], [False]),
    "ints that become floats": ([says(0, {"a": np.arange(99)}), says(1, {"a": np.arange(99) / 7})], [True, True]),
    "batches": ([says(99 * n, {"a": np.arange(99) / 7, "b": np.arange(99) + n}, k=99, dt=0.1) for n in range(4)],
                [True] * 4),
    "batches and one": ([says(0, {"a": np.arange(99.0)}, k=99), says(99, {"a": 1.5}), says(100, {"a": np.ones(99)}, k=99)],
                        [True, False, True]),
    "batches of float32": ([says(0, {"a": np.linspace(0, 1, 99, dtype="f4")}, k=99)], [True]),
    "batches of vectors": ([says(0, {"a": RANDOM.random((50, 3))}, k=50), says(50, {"a": RANDOM.random((50, 2))}, k=50)],
                           [True, True]),
    "batches of ints, then floats": ([says(0, {"a": np.arange(99)}, k=99), says(99, {"a": np.arange(99) / 7}, k=99)],
                                     [True, True]),
    "NaNs that change": ([says(0, {"a": SIGNALLING}, k=100)], [False]),
    "beyond int64": ([says(0, {"a": np.full(99, 2**64 - 1, "u8")}, k=99)], [False]),
    "big-endian": ([cbor({"a": big_endian(IMAGE, 65)})], [True]),
    "no ether": ([cbor({"a": b"y" * 500, "_ether": {"by": b"z" * 500}})], [True]),
    "a field twice": ([codecs.CBOR_MAGIC + b"\xa2" + (b"\x61a" + cbor2.dumps(b"x" * 300)) * 2], [False]),
    "in a list": ([cbor({"a": [b"x" * 300, 1]})], [False]),
    "of no length": ([codecs.CBOR_MAGIC + b"\xbf\x61a" + cbor2.dumps(b"x" * 300) + b"\xff"], [False]),
    "another order": ([cbor({"a": cbor2.CBORTag(1040, [[2, 50], cbor2.CBORTag(86, np.arange(100.0).tobytes())])})], [False]),
    "no map": ([cbor(b"x" * 300)], [False]),
    "pictures of a foreign camera": ([b"\xff\xd8" + RANDOM.bytes(3000 + n) for n in range(3)], [True] * 3),
    "pictures, and words between": ([b"\xff\xd8" + RANDOM.bytes(300), b"busy " * 99, b"{" + b"\xff" * 300, b"[1]" + b" " * 300],
                                    [True, False, True, False]),
    "cut off": ([says(0, {"a": np.arange(99)})[:-150]], [False]),
}  # fmt: skip


def record(file: Path, messages: list[tuple[str, bytes]]) -> None:
    with Journal(journal_folder(file)) as journal:
        for number, (topic, payload) in enumerate(messages):
            journal.append(head(Kind.MESSAGE, 1, number, number, topic), payload)
        journal.append(*note(Kind.END, {"reason": "stop", "connected": True}))
        journal.commit()
    seal.recover(file)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hollow") / "zoo.h5"
    record(file, [(case, payload) for case, (payloads, _) in CASES.items() for payload in payloads])
    return file


def test_every_payload_comes_back_byte_for_byte(zoo: Path) -> None:
    with open_recording(zoo) as recording:
        found = [(message.topic, message.payload) for message in recording.messages()]

    assert found == [(case, payload) for case, (payloads, _) in CASES.items() for payload in payloads]
    assert verify(zoo).damage == []


@pytest.mark.parametrize("case", CASES)
def test_arrays_are_in_the_file_once(case: str, zoo: Path) -> None:
    payloads, expected = CASES[case]

    with h5py.File(zoo) as file:
        number = list(file["topics"].fields("topic")[:]).index(case.encode())
        rows = file["messages"][file["messages"]["topic"] == number]

    assert [bool(row["flags"] & layout.FLAG_HOLLOW) for row in rows] == expected
    assert [int(row["raw_length"]) < len(payload) for row, payload in zip(rows, payloads, strict=True)] == expected
    assert [int(row["crc32"]) for row in rows] == [crc32(payload) for payload in payloads]


def test_what_is_no_cbor_is_left_alone() -> None:
    assert [
        hollowed(payload)
        for payload in (b"", b"x" * 999, codecs.CBOR_MAGIC, codecs.CBOR_MAGIC + b"\x9b" + b"\xff" * 999)
    ] == [None] * 4


def test_a_changed_pixel_is_named_and_breaks_the_chain(tmp_path: Path) -> None:
    file = tmp_path / "film.h5"
    record(file, [("camera", says(n, {"image": IMAGE + n})) for n in range(4)])
    with h5py.File(file, "r+") as opened:
        opened["data/camera/readings/image"][2, 5, 5] ^= 1

    assert verify(file).damage == [
        "/raw: message 2 on 'camera' does not match its checksum",
        "/data/camera/readings/image: changed since it was sealed",
    ]

    with h5py.File(file, "r+") as opened:  # by somebody who knows of the checksums
        image = opened["data/camera/readings/image"]
        changed = seal.dataset_sha256(image).encode()
        table = opened["checksums"][:]
        table["sha256"][table["path"] == b"data/camera/readings/image"] = changed
        opened["checksums"][...] = table

    assert "content_sha256: the messages are not those that were sealed" in verify(file).damage


def test_what_is_sealed_is_compressed_as_a_sample_says(tmp_path: Path) -> None:
    noise = RANDOM.integers(0, 255, (20, 300, 300), "u1")
    walk = np.cumsum(RANDOM.normal(0, 0.01, 150_000)).round(3)
    record(
        tmp_path / "sizes.h5",
        [("camera", says(n, {"image": frame})) for n, frame in enumerate(noise)]
        + [("dark", says(n, {"image": frame // 254})) for n, frame in enumerate(noise)]
        + [("walk", says(0, {"a": walk}, k=len(walk), dt=0.001))],
    )

    with h5py.File(tmp_path / "sizes.h5") as file:
        found = {
            name: (file["data"][name].compression, file["data"][name].shuffle)
            for name in ("camera/readings/image", "dark/readings/image", "walk/readings/a", "walk/readings/time")
        }
        assert file["data/walk/readings/a"].id.get_storage_size() < 0.3 * walk.nbytes
    assert found == {
        "camera/readings/image": (None, False),
        "dark/readings/image": ("gzip", False),
        "walk/readings/a": ("gzip", False),
        "walk/readings/time": ("gzip", True),
    }
