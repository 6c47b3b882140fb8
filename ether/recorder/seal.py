"""Sealing: the finished file is rewritten compressed, proven against the journal, and only then is the journal dropped.

`content_sha256`, a root attribute of a sealed file, is SHA-256 over, in this order: the attribute ``previous_sha256``
(the same of the part before, as ASCII; empty for the first), the topics by id (each as u32 length and UTF-8), the rows
of /messages as they are laid out (packed, little-endian), the bytes of /raw, and of /checksums the path and checksum of
every column. So parts form a chain, and no message can be changed, added or taken away unnoticed. /checksums holds a
SHA-256 of every dataset but /messages and /raw.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ether import process
from ether.checksum import crc32
from ether.errors import EtherError, RecordingError
from ether.journal import JournalReader, Record, drop_segments, sync_directory
from ether.journal import hold as hold_journal
from ether.recorder import layout
from ether.recorder.builder import LIBVER, Builder
from ether.recorder.disk import demand, trouble
from ether.recorder.entries import Kind, journal_folder, unpack
from ether.recorder.hollow import raw_payloads
from ether.recorder.marker import SEALER, WRITER, hold
from ether.recorder.parts import Part, Resume, first_of

__all__ = ["DROPPED", "Held", "content_sha256", "dataset_sha256", "main", "recover", "seal"]

logger = logging.getLogger(__name__)

DROPPED = ".dropped"
"""Ends the name of a journal's folder that is not needed any more."""
_BLOCK_BYTES = 4 << 20
_CHUNK_BYTES = 256 << 10
_TINY_BYTES = 4 << 10
_SHORT_TEXT = 64
_LARGE_BYTES = 1 << 20
_SAMPLE_BYTES = 128 << 10
_FRAME_BYTES = 64 << 10
_HASHED_APART = ("messages", "raw", "checksums")


def seal(part: Part, journal: Path) -> None:
    """Make the final file out of a finished work file, prove it, put it in place, and drop that stretch of the journal.

    May be killed at any point and done again: until the last rename the journal holds everything.

    Raises:
        RecordingError: the file does not hold what the journal holds; both are kept.
    """
    sealed = journal / "sealed.h5"
    sealed.unlink(missing_ok=True)
    with h5py.File(part.work, "r") as source, h5py.File(sealed, "w-", libver=LIBVER) as final:
        _rewrite(source, final)
        final.attrs["state"] = part.state
        final.attrs["journal_damage"] = [layout.text(line) for line in part.damage] or h5py.Empty("S1")
        final.attrs["previous_sha256"] = Resume.load(journal).previous_sha256
        digest = final.attrs["content_sha256"] = content_sha256(final)
    prove(sealed, journal, part.start, part.end)
    with open(sealed, "r+b") as file:
        os.fsync(file.fileno())
    sealed.replace(part.target)
    sync_directory(part.target.parent)
    if part.end is None:
        _drop(journal)
        return
    replace(part.following(), previous_sha256=digest).save(journal)
    drop_segments(journal, part.end)
    if part.work != part.target:
        part.work.unlink()


def prove(file: Path, journal: Path, start: int = 0, end: int | None = None) -> None:
    """Return if every message of this stretch of the journal is in the file, with the same bytes.

    Raises:
        RecordingError: it is not.
    """
    with h5py.File(file, "r") as recording, JournalReader(journal, start=start) as reader:
        ledger = recording["messages"]
        position, rows = 0, ledger[:0]
        block = 50_000
        for record in reader:
            if record.number == end:
                break
            entry = unpack(record)
            if entry.kind != Kind.MESSAGE:
                continue
            if position % block == 0:
                rows = ledger[position : position + block]
            place = position % block
            if place >= len(rows) or int(rows[place]["jseq"]) != entry.number:
                raise RecordingError(f"{file}: message {entry.number} of the journal is not in the file")
            if int(rows[place]["crc32"]) != crc32(entry.payload):
                raise RecordingError(f"{file}: message {entry.number} differs from the journal")
            position += 1
        if position != len(ledger):
            raise RecordingError(f"{file}: holds {len(ledger)} messages, the journal {position}")
        for number, expected, payload in raw_payloads(recording):
            if crc32(payload) != expected:
                raise RecordingError(f"{file}: the bytes of message {number} do not match their checksum")


def content_sha256(recording: h5py.File) -> str:
    """Return the SHA-256 of a recording's messages, as this module's description defines it; lower-case hex."""
    digest = hashlib.sha256(str(recording.attrs["previous_sha256"]).encode())
    if "topics" in recording:
        for topic in recording["topics"].fields("topic")[:]:
            digest.update(struct.pack("<I", len(topic)) + topic)
    for name in ("messages", "raw"):
        for block in _blocks(recording[name]):
            digest.update(block.tobytes())
    for path, checksum in recording["checksums"][:]:
        if path.startswith(b"data/"):
            digest.update(path + checksum)
    return digest.hexdigest()


def dataset_sha256(dataset: h5py.Dataset) -> str:
    """Return the SHA-256 of a dataset's values and attributes; lower-case hex."""
    digest = _head_digest(dataset)
    for block in _blocks(dataset):
        _digest_block(digest, block)
    return digest.hexdigest()


def recover(file: str | os.PathLike[str]) -> bool:
    """Rebuild and seal a recording from the journal that a died session left beside it; False where there is none.

    May be killed at any point and done again. The state becomes ``sealed`` where the journal ends in order,
    ``recovered`` otherwise.

    Raises:
        JournalError: the journal is being written by a running recorder, or cannot be read.
        RecordingError: the rebuilt file does not hold what the journal holds, or cannot be written.
    """
    target = first_of(Path(file).absolute())
    journal = journal_folder(target)
    if not journal.is_dir():
        return False
    with Held(journal):
        try:
            _recover(target, journal)
        except (OSError, RuntimeError) as exc:
            if not (why := trouble(exc)):
                raise
            raise RecordingError(f"{target}: cannot be written: {why}; the journal beside it has everything") from exc
    return True


def _recover(target: Path, journal: Path) -> None:
    resume = Resume.load(journal)
    raw_only = _raw_only(journal, resume.start)
    with JournalReader(journal, start=resume.start) as reader:
        records = iter(reader)
        while (part := _rebuild(target, resume, reader, records, raw_only)).end is not None:
            seal(part, journal)
            resume = Resume.load(journal)
    if part.messages or part.number > 1 or not target.exists():
        seal(part, journal)
    else:
        _drop(journal)


def _rebuild(
    file: Path, resume: Resume, reader: JournalReader, records: Iterator[Record], raw_only: frozenset[int]
) -> Part:
    """Write the next part out of the journal; it ends where the recorder rolled, or with the journal."""
    builder = Builder(reader.folder / "work.h5", resume, raw_only=raw_only)
    try:
        for record in records:
            builder.take(record)
            if builder.rolled:
                break
        part = builder.finish(file, reader)
        demand(part.work.parent, part.work.stat().st_size)  # the sealed one is hardly larger
        return part
    except BaseException:
        builder.abandon()
        raise


def _raw_only(journal: Path, start: int) -> frozenset[int]:
    """Return the messages that the journal says, somewhere behind them, must not be decoded."""
    import json

    with JournalReader(journal, start=start) as reader:
        entries = (unpack(record) for record in reader)
        return frozenset(int(json.loads(entry.payload)["number"]) for entry in entries if entry.kind == Kind.RAW_ONLY)


def main() -> None:
    """Run as the process that seals one part while its writer goes on; exit code 1 where it cannot.

    Orders: a `Part`, ``journal``, ``log_level``.
    """
    import signal

    given = process.orders()
    process.log_to_stderr("recorder.sealer", given.get("log_level", "INFO"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with its writer
    journal = Path(given["journal"])
    held = hold(journal, SEALER)
    process.on_orphaned(lambda: os._exit(3))
    part = Part.of_orders(given)
    try:
        seal(part, journal)
    except (OSError, EtherError) as exc:
        logger.error("recorder: %s cannot be sealed: %s", part.target, exc)
        os._exit(1)
    if held is not None:
        held.close()
    logger.info("recorder: %s is sealed and proven against the journal", part.target)


class Held:
    """Holds a journal against its recorder, without opening (and so changing) it; JournalError where it is running."""

    def __init__(self, journal: Path) -> None:
        # And against those it has started, which may still be about to end.
        self._files = [hold_journal(journal), hold(journal, WRITER), hold(journal, SEALER)]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc_info: object) -> None:
        for file in self._files:
            if file is not None:
                file.close()


def _drop(journal: Path) -> None:
    """Remove the journal; what cannot be removed is only untidy, since its content is proven to be in the file.

    It loses its name first: half a journal must never be taken for the journal, and made into the file anew.
    """
    dropped = journal.with_suffix(DROPPED)
    shutil.rmtree(dropped, ignore_errors=True)
    journal.rename(dropped)
    sync_directory(journal.parent)
    shutil.rmtree(dropped, ignore_errors=True)


def _rewrite(source: h5py.File, final: h5py.File) -> None:
    """Copy everything, compressed, with datasets no longer than they are, and write /checksums."""
    checksums: list[tuple[str, str]] = []
    _copy_group(source, final, "", checksums)
    dtype = layout.TABLES["checksums"]
    final.create_dataset("checksums", data=np.array(checksums, dtype), dtype=dtype)


def _copy_group(source: h5py.Group, target: h5py.Group, path: str, checksums: list[tuple[str, str]]) -> None:
    # By handles, not by paths: HDF5 resolves a path from its root, and topics may have hundreds of levels.
    _copy_attributes(source, target)
    for name, found in source.items():
        below = f"{path}/{name}" if path else name
        if isinstance(found, h5py.Group):
            _copy_group(found, target.create_group(name), below, checksums)
        else:
            checksum = _copy_dataset(found, target, name)
            if below not in _HASHED_APART:
                checksums.append((below, checksum))


def _copy_attributes(source: Any, target: Any) -> None:
    for key, value in source.attrs.items():
        target.attrs[key] = value


def _copy_dataset(source: h5py.Dataset, final: h5py.Group, name: str) -> str:
    """Copy a dataset as it is to be kept; return its checksum (see `dataset_sha256`)."""
    dtype = _final_dtype(source)
    row_bytes = max(1, math.prod(source.shape[1:]) * dtype.itemsize)
    if source.shape == () or source.shape[0] * row_bytes <= _TINY_BYTES:
        copied = final.create_dataset(name, source.shape, dtype)
        if copied.size:
            copied[...] = source[...].astype(dtype) if dtype.kind == "S" else source[...]
        _copy_attributes(source, copied)
        return dataset_sha256(copied)
    rows = max(1, min(source.shape[0], _CHUNK_BYTES // row_bytes))
    copied = final.create_dataset(
        name, source.shape, dtype, chunks=(rows, *source.shape[1:]), fillvalue=_fill(source, dtype),
        **_filters(source, dtype, rows, row_bytes),
    )  # fmt: skip
    _copy_attributes(source, copied)
    digest = _head_digest(copied)
    step = rows * max(1, _BLOCK_BYTES // (rows * row_bytes))
    for start in range(0, source.shape[0], step):
        copied[start : start + step] = block = source[start : start + step].astype(dtype, copy=False)
        if not _has_texts(dtype):
            digest.update(block.tobytes())
    return dataset_sha256(copied) if _has_texts(dtype) else digest.hexdigest()


def _filters(source: h5py.Dataset, dtype: np.dtype[Any], rows: int, row_bytes: int) -> dict[str, Any]:
    """Return how a dataset is compressed. For a large one a sample tells: shuffled or not, harder, or not at all.

    Frames are left as they are unless they shrink to half: compressing takes longer than recording them.
    """
    usual = {"compression": "gzip", "compression_opts": 1, "shuffle": dtype.kind != "S"}
    if dtype.hasobject or dtype.kind == "S" or source.shape[0] * row_bytes < _LARGE_BYTES:
        return usual
    middle = (source.shape[0] - rows) // 2
    sample = np.ascontiguousarray(source[middle : middle + rows]).view("u1").reshape(-1, dtype.itemsize)
    sample = sample[: max(1, _SAMPLE_BYTES // dtype.itemsize)]
    size, shuffle = min((len(zlib.compress(each.tobytes(), 1)), each is not sample) for each in (sample, sample.T))
    if size > (0.5 if row_bytes >= _FRAME_BYTES else 0.9) * sample.size:
        return {}
    harder = len(zlib.compress((sample.T if shuffle else sample).tobytes(), 4))
    return {**usual, "shuffle": shuffle, "compression_opts": 4 if harder < 0.9 * size else 1}


def _fill(source: h5py.Dataset, dtype: np.dtype[Any]) -> Any:
    """Return the fill value to keep; None for texts: h5py hands those of a table over as null pointers, and crashes."""
    return None if dtype.hasobject or dtype != source.dtype else source.fillvalue


def _final_dtype(source: h5py.Dataset) -> np.dtype[Any]:
    """Return a dataset's type, with short texts of fixed length: a tenth of the size, and text to every reader."""
    kept: np.dtype[Any] = source.dtype
    information = h5py.check_string_dtype(kept)
    if information is None or information.length is not None or source.shape == () or len(source) < 256:
        return kept
    longest = 1
    for block in _blocks(source):
        longest = max(longest, *map(len, block))
        if longest > _SHORT_TEXT:
            return kept
    short: np.dtype[Any] = h5py.string_dtype("utf-8", longest)
    return short


def _blocks(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    if dataset.shape == ():
        yield np.array([dataset[()]], dtype=object if dataset.dtype.kind == "O" else dataset.dtype)
        return
    row_bytes = max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize)
    rows = max(1, _BLOCK_BYTES // row_bytes)
    if dataset.chunks is not None and rows > dataset.chunks[0]:
        rows -= rows % dataset.chunks[0]
    for start in range(0, dataset.shape[0], rows):
        yield dataset[start : start + rows]


def _head_digest(dataset: h5py.Dataset) -> hashlib._Hash:
    return hashlib.sha256(repr((dataset.shape, sorted(_plain_attributes(dataset)))).encode())


def _has_texts(dtype: np.dtype[Any]) -> bool:
    return dtype.hasobject or dtype.kind == "S"


def _digest_block(digest: Any, block: np.ndarray) -> None:
    if block.dtype.names is not None and any(block.dtype[name].kind == "O" for name in block.dtype.names):
        for name in block.dtype.names:
            _digest_block(digest, block[name])
    elif block.dtype.kind in "OS":
        for item in block.ravel():
            value = item if isinstance(item, bytes) else str(item).encode()
            digest.update(struct.pack("<I", len(value)) + value)
    else:
        digest.update(np.ascontiguousarray(block).tobytes())


def _plain_attributes(dataset: h5py.Dataset) -> list[tuple[str, str]]:
    return [(key, repr(np.asarray(value).tolist())) for key, value in dataset.attrs.items()]
