"""The session's log: what its processes log and print, in one bounded file that outlives them."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from ether import clock

__all__ = ["LEVELS", "Entering", "Line", "SessionLog", "find", "folder", "follow", "header", "read", "unfinished"]

logger = logging.getLogger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_PART_BYTES = 8_000_000
"""A file that is full is put aside as ``….log.1``; the one before goes."""
_SESSIONS_KEPT = 20
_LINE_CHARS = 16_384
_RECENT = 1_000
"""Lines at hand for those who ask from another machine."""
_POLL_S = 0.2
_ENDED = "ended"
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} - [\w.-]+:(\d+) - ([A-Z]+) - (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """One line that was logged or printed."""

    t: float
    """Unix time at which it came, seconds."""
    name: str
    """Instance, ``recorder`` or ``session``."""
    message: str
    stream: str = "log"
    """``stdout``, ``stderr``; ``topic`` of a member on another machine; ``log`` of the session itself."""
    level: str = ""
    """Of a log record, and of the lines of its traceback; empty for what was printed."""
    pid: int | None = None

    @property
    def severity(self) -> int:
        """How grave it is, as an index of `LEVELS`; what was printed counts as INFO, on stderr as WARNING."""
        return LEVELS.index(self.level) if self.level in LEVELS else 2 if self.stream == "stderr" else 1


class SessionLog:
    """Written by the process that began a session. What the disk refuses is said once, and left out."""

    def __init__(
        self, session: str, session_id: str, instances: Iterable[str], running: Iterable[str] = (),
        on_disk: bool = True,
    ) -> None:  # fmt: skip
        """Begin a file, and remove those of long ago.

        Args:
            session: its name.
            session_id: its id.
            instances: those that are declared.
            running: ids of sessions whose files stay.
            on_disk: False keeps the last lines only, in memory.
        """
        now = clock.now()
        self.path = folder() / f"{clock.compact(now)}-{quote(session, safe='')}-{session_id}.log"
        self._header = {
            "session": session,
            "id": session_id,
            "pid": os.getpid(),
            "began": now,
            "instances": list(instances),
        }
        self._file: IO[str] | None = None
        self._size = 0
        self._lock = threading.RLock()
        self._refused = False
        self._closed = False
        self._numbered: deque[tuple[int, Line]] = deque(maxlen=_RECENT)
        self._count = 0
        self._on_disk = on_disk
        if on_disk:
            _remove_old({*running, session_id})
        self.say("INFO", "began")

    def say(self, level: str, message: str) -> None:
        """Write a line of the session's own."""
        self.write([Line(clock.now(), "session", message, "log", level, os.getpid())])

    def hear(self, name: str, pid: int | None, stream: str, lines: Iterable[str]) -> None:
        """Write what a process printed or logged; the lines came together.

        What follows a record in the same piece, as a traceback does, has its level.
        """
        level = ""
        found = []
        for text in lines:
            record = _record(text) if stream == "stderr" else None
            if record is not None:
                level = record[1]
            message, who = (text, pid) if record is None else (record[2], record[0])
            found.append(Line(clock.now(), name, message, stream, level, who))
        self.write(found)

    def write(self, lines: Iterable[Line]) -> None:
        with self._lock:
            for line in lines:
                self._count += 1
                self._numbered.append((self._count, line))
                self._write(line)

    def recent(self, after: int = 0) -> dict[str, Any]:
        """Return the last lines as ``lines``, those after number `after` only, and as ``next`` what to ask after."""
        with self._lock:
            return {"lines": [asdict(line) for number, line in self._numbered if number > after], "next": self._count}

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self.say("INFO", _ENDED)
                self._closed = True
                if self._file is not None:
                    self._file.close()

    def _write(self, line: Line) -> None:
        if self._closed or not self._on_disk:
            return
        content = {key: value for key, value in asdict(line).items() if value not in ("", None)}
        content["message"] = line.message[:_LINE_CHARS] + ("…" if len(line.message) > _LINE_CHARS else "")
        text = json.dumps(content, ensure_ascii=False) + "\n"
        try:
            if self._file is None or self._size > _PART_BYTES:
                self._begin()
            assert self._file is not None
            self._file.write(text)
            self._file.flush()
            self._size += len(text)
            self._refused = False
        except OSError as exc:
            if not self._refused:
                self._refused = True
                logger.warning("the session's log %s cannot be written: %s; `ether logs` lacks it", self.path, exc)

    def _begin(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._file is not None:
            self._file.close()
            self._file = None
            self.path.replace(_older(self.path))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = open(descriptor, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by `close`
        self._size = self._file.write(json.dumps(self._header) + "\n")


class Entering(logging.Handler):
    """Enters what ether logs in this process into the session's log."""

    def __init__(self, log: SessionLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "ether.log":  # which says that it cannot be written
            self._log.say(record.levelname, self.format(record))


def folder() -> Path:
    """Return where logs are, the user's folder for state; it need not exist yet."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ether"


def find(session: str | None = None) -> Path | None:
    """Return the log that was written last, of a session of that name if given; None where there is none."""
    # Not the one that was begun last: whoever was refused beside a running session leaves one, too.
    for path in sorted(folder().glob("*.log"), key=lambda path: (_written_ns(path), path), reverse=True):
        if session in (None, header(path).get("session")):
            return path
    return None


def unfinished(session: str) -> Path | None:
    """Return the log of the last session of a name where that has no end; None otherwise.

    It goes on, in the process that its header names, or was killed.
    """
    path = find(session)
    if path is None:
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * _LINE_CHARS))
        last = _parsed(file.read().decode(errors="replace").rstrip("\n").rpartition("\n")[2])
    return None if last is not None and (last.name, last.message) == ("session", _ENDED) else path


def header(path: Path) -> dict[str, Any]:
    """Return ``session``, ``id``, ``pid``, ``began``, and the declared ``instances``; nothing of what is no log."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            found = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read(path: Path) -> Iterator[Line]:
    """Yield the lines of a log, oldest first."""
    for each in (_older(path), path):
        try:
            with each.open(encoding="utf-8", errors="replace") as file:
                yield from filter(None, map(_parsed, file))
        except FileNotFoundError:
            continue


def follow(path: Path, going_on: Callable[[], bool], wait: Callable[[float], object]) -> Iterator[Line | None]:
    """Yield the lines of a log as they come, those that are there first, and None whenever there is no more for now.

    It ends when the session does.

    Args:
        going_on: whether the session lives.
        wait: for so many seconds.
    """
    older = _older(path)
    if older.exists():
        with older.open(encoding="utf-8", errors="replace") as file:
            yield from filter(None, map(_parsed, file))
    file = path.open(encoding="utf-8", errors="replace")
    try:
        rest, last_look = "", False
        while True:
            while piece := file.readline():
                rest += piece
                if rest.endswith("\n"):
                    line, rest = _parsed(rest), ""
                    if line is not None:
                        yield line
            if _replaced(path, file):
                file.close()
                file = path.open(encoding="utf-8", errors="replace")
                continue
            if last_look:
                return
            yield None
            last_look = not going_on()  # then once more: its last words
            if not last_look:
                wait(_POLL_S)
    finally:
        file.close()


def _replaced(path: Path, file: IO[str]) -> bool:
    """Return whether a new file has begun, so that nothing comes to this one any more."""
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _written_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # removed meanwhile, by a session that begins
        return 0


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _parsed(text: str) -> Line | None:
    """Return a line of the file; None for its header, and for what a killed process left half written."""
    try:
        found = json.loads(text)
        return Line(**{key: found[key] for key in Line.__dataclass_fields__ if key in found})
    except (ValueError, TypeError):
        return None


def _record(text: str) -> tuple[int | None, str, str] | None:
    """Return process, level and message of a log record as processes write it to stderr; None for anything else."""
    found = _HEAD.fullmatch(text)
    if found is not None and found[2] in LEVELS:
        return int(found[1]), found[2], found[3]
    if text.startswith('{"t": '):  # ETHER_LOG_FORMAT=json
        try:
            content = json.loads(text)
            trace = content.get("traceback")
            message = str(content["message"]) + (f"\n{trace}" if trace else "")
            return int(content["pid"]), str(content["level"]), message
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
    return None


def _remove_old(kept: set[str]) -> None:
    """Remove the logs of sessions that are long over."""
    for path in sorted(folder().glob("*.log"), reverse=True)[_SESSIONS_KEPT:]:
        if path.stem.rpartition("-")[2] not in kept:
            for each in (path, _older(path)):
                try:
                    each.unlink(missing_ok=True)
                except OSError as exc:
                    logger.debug("%s: %s", each, exc)
