"""Revisions: what is said of a finished recording afterwards, beside it, so that the sealed file stays as it is.

``heating.revisions.jsonl`` belongs to ``heating.h5``: one JSON object a line, appended and never changed. Each holds
``sha256``, the SHA-256 of its other members as JSON (sorted keys, no spaces, UTF-8), and ``previous``, the ``sha256``
of the line before; in the first line it is the recording's ``content_sha256``. So no line can be changed, moved, left
out between two others or carried to another recording unnoticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ether import clock
from ether.errors import RecordingError
from ether.journal import sync_directory
from ether.model import Annotation

__all__ = ["Revision", "append", "path_of", "read"]


@dataclass(frozen=True, slots=True)
class Revision:
    """One line of a recording's revisions."""

    number: int
    """1, 2, 3 …"""
    made: float
    """Unix time at which it was added, seconds."""
    annotation: Annotation
    """What was added; `by` says by whom."""
    sha256: str


def path_of(recording: Path) -> Path:
    """Return the file of a recording's revisions."""
    return recording.with_name(f"{recording.name.removesuffix('.h5')}.revisions.jsonl")


def read(recording: Path, content_sha256: str) -> tuple[list[Revision], list[str]]:
    """Return the revisions of a recording up to the first that is not as it was written, and what is wrong."""
    path = path_of(recording)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], []
    except OSError as exc:
        return [], [f"{path.name}: cannot be read ({exc.strerror or exc})"]
    found: list[Revision] = []
    previous = content_sha256
    for number, line in enumerate(lines[:-1], 1):
        revision = _parsed(line, number, previous)
        if revision is None:
            return found, [f"{path.name}: revision {number} is not what was written, or not of this recording"]
        found.append(revision)
        previous = revision.sha256
    return found, [f"{path.name}: its last line is cut short"] if lines[-1] else []


def append(recording: Path, content_sha256: str, annotation: Annotation) -> Revision:
    """Add an annotation to a finished recording; returns when it is on disk.

    Raises:
        RecordingError: the revisions there are were altered, or nothing can be written.
    """
    path = path_of(recording)
    try:
        new = not path.exists()
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file, _held(file):
            _cut_torn_tail(file)
            known, damage = read(recording, content_sha256)
            if damage:
                raise RecordingError(f"{damage[0]}; nothing is added to it")
            previous = known[-1].sha256 if known else content_sha256
            content = {
                "revision": len(known) + 1, "previous": previous, "made": clock.now(), "by": annotation.by,
                "text": annotation.text, "t0": annotation.t0, "t1": annotation.t1, "tags": list(annotation.tags),
                "values": annotation.values,
            }  # fmt: skip
            line = _canonical({**content, "sha256": _digest(content)})
            file.seek(0, os.SEEK_END)
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(path.parent)
    except RecordingError:
        raise
    except OSError as exc:
        raise RecordingError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    revision = _parsed(line, len(known) + 1, previous)
    assert revision is not None
    return revision


def _cut_torn_tail(file: Any) -> None:
    """Remove what a writer left that died in the middle of a line: nobody was told that it is kept."""
    data = file.read()
    if data and not data.endswith(b"\n"):
        file.truncate(data.rfind(b"\n") + 1)


@contextmanager
def _held(file: Any) -> Iterator[None]:
    """Let one process at a time append."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    yield  # closing the file lets go


def _parsed(line: bytes, number: int, previous: str) -> Revision | None:
    """Return a line's revision; None where it is not the next after `previous`."""
    try:
        content = json.loads(line)
        said = content.pop("sha256")
        if (content["revision"], content["previous"], _digest(content)) != (number, previous, said):
            return None
        note = Annotation(
            content["text"], content["t0"], content["t1"], tuple(content["tags"]), content["values"], content["by"],
            revision=number,
        )  # fmt: skip
        return Revision(number, content["made"], note, said)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(content: dict[str, Any]) -> str:
    return sha256(_canonical(content)).hexdigest()
