"""The HDF5 writer, a process of its own: follows the journal, keeps a private work file, publishes copies of it.

The public file is only ever replaced as a whole (copy, fsync, rename), so any HDF5 program can open it at any time.
HDF5 has crashed interpreters on full disks; here that costs a rebuild from the journal and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py

from ether import clock, process
from ether.journal import JournalReader, Record, sync_directory
from ether.recorder import seal
from ether.recorder.builder import Builder
from ether.recorder.disk import trouble
from ether.recorder.marker import DISK_TROUBLE, SEALER, WRITER, Marker, hold
from ether.recorder.parts import Part, Resume, part_path

__all__ = ["Writer", "main"]

logger = logging.getLogger(__name__)

_PUBLISH_S = 2.0
_POLL_S = 0.2


def copy_to(source: Path, target: Path, temporary: Path) -> None:
    """Replace `target` by a copy of `source` in one step that survives a power cut; readers see the old or the new."""
    shutil.copyfile(source, temporary)
    with open(temporary, "r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    sync_directory(target.parent)


class SealFailed(Exception):
    """A part could not be sealed; the process that tried has said why."""


class Sealer:
    """Seals finished parts, one after the other, in a process of its own, while the next part is being written."""

    def __init__(self, log_level: str) -> None:
        self._log_level = log_level
        self._waiting: deque[dict[str, Any]] = deque()
        self._child: subprocess.Popen[bytes] | None = None

    def add(self, orders: dict[str, Any]) -> None:
        self._waiting.append({**orders, "log_level": self._log_level})
        self.watch()

    def watch(self) -> bool:
        """Look after the process; True when nothing is left to be sealed."""
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                return False
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child = None
            if code:
                raise SealFailed
        if not self._waiting:
            return True
        self._child = process.spawn("ether.recorder.seal", "recorder-sealer")
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code tells
            process.give_orders(self._child, self._waiting.popleft())
        return False


class Writer:
    """Follows a journal until an orderly end, part after part, publishing as it goes."""

    def __init__(
        self, file: Path, journal: Path, raw_only: Iterable[int] = (), careful: tuple[int, int] | None = None,
        log_level: str = "INFO",
    ) -> None:  # fmt: skip
        self.file = file
        self.journal = journal
        self.stopping = threading.Event()
        self.careful = careful
        for left in (*journal.glob("work*.h5"), *journal.glob("sealed*.h5")):
            left.unlink(missing_ok=True)
        resume = Resume.load(journal)
        self._marker = Marker(journal / "writer.at")
        self._reader = JournalReader(journal, live=True, start=resume.start)
        self._sealer = Sealer(log_level)
        self._builder = self._build(resume, raw_only)
        self._shown = _messages_in(self.target)
        """So many messages the public file holds already: one built anew replaces it when it holds as many."""
        self._published = -math.inf
        self._publish_every = 0.5  # the first time soon: whoever looks for the file should find it

    def _build(self, resume: Resume, raw_only: Iterable[int]) -> Builder:
        return Builder(self.journal / f"work-{resume.part:04d}.h5", resume, raw_only=raw_only, marker=self._marker)

    @property
    def target(self) -> Path:
        """The public file of the part that is being written."""
        return part_path(self.file, self._builder.part)

    def run(self) -> bool:
        """Follow and publish; True after an orderly end, with all parts sealed but the last, which is to be finished.

        Raises:
            SealFailed: a part could not be sealed.
        """
        while not self.stopping.is_set():
            records = self._reader.read(limit=2000)
            self._take(records)
            sealed = self._sealer.watch()
            if not records:
                if self._builder.ended is not None and sealed:
                    return True
                self.stopping.wait(_POLL_S)
            self._maybe_publish()
        return False

    def _take(self, records: list[Record]) -> None:
        for record in records:
            self._builder.take(record)
            if self._builder.rolled:
                self._roll()
            elif self.careful is not None and self.careful[0] <= record.number <= self.careful[1]:
                self._builder.flush()

    def _roll(self) -> None:
        """Finish this part, have it sealed, and begin the next."""
        part = self._given_away(self._builder.finish(self.file, self._reader))
        self._sealer.add({**part.as_orders(), "journal": str(self.journal)})
        self._builder = self._build(part.following(), self._builder.raw_only)
        self._shown = _messages_in(self.target)
        self._published = -math.inf  # whoever looks for the new part should find it soon

    def _given_away(self, part: Part) -> Part:
        """Let readers have the work file itself while it is sealed: nobody writes it any more."""
        with open(part.work, "r+b") as file:
            os.fsync(file.fileno())
        try:
            part.work.replace(part.target)
        except PermissionError:  # Windows, while somebody reads what is public so far
            return part
        sync_directory(part.target.parent)
        return part._replace(work=part.target)

    def _maybe_publish(self) -> None:
        if self._builder.messages < self._shown:
            return
        if self._builder.dirty and clock.monotonic() - self._published >= self._publish_every:
            self._publish()

    def _publish(self) -> None:
        started, schemas = clock.monotonic(), self._builder.schemas
        self._builder.checkpoint()
        try:
            copy_to(self._builder.path, self.target, self.journal / "public.h5")
        except PermissionError:  # Windows, while somebody reads it: next time
            logger.debug("the public file is held by a reader; it is replaced next time")
        self._published = clock.monotonic()
        # At most a thirtieth of the time goes into publishing, however large the file is and however many its topics.
        # Columns are made once, and slowly: what that took says nothing about the next time.
        share = 30 if self._builder.schemas == schemas else 1
        self._publish_every = max(_PUBLISH_S, share * (self._published - started))

    def finish(self) -> Part:
        """Finish the last part; return what is to be sealed."""
        part = self._builder.finish(self.file, self._reader)
        self._reader.close()
        return part


def _messages_in(file: Path) -> int:
    """Return how many messages a public file holds; 0 where there is none that can be read."""
    try:
        with h5py.File(file) as public:
            return int(public.attrs["messages"])
    except (OSError, RuntimeError, KeyError):
        return 0


def main() -> None:
    """Run as the writer process: orders ``file``, ``journal``, ``raw_only``, ``careful``, ``log_level``."""
    given = process.orders()
    process.log_to_stderr("recorder.writer", given.get("log_level", "INFO"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ingest decides: it ends us by an entry in the journal, or kills
    file, journal = Path(given["file"]), Path(given["journal"])
    held = hold(journal, WRITER)
    process.on_orphaned(lambda: os._exit(3))  # the next recorder rebuilds from the journal
    try:
        careful = given.get("careful")
        if (orphan := hold(journal, SEALER)) is not None:
            orphan.close()
        writer = Writer(
            file, journal, given.get("raw_only", ()), tuple(careful) if careful else None,
            given.get("log_level", "INFO"),
        )  # fmt: skip
        if not writer.run():
            sys.exit(3)
        seal.seal(writer.finish(), journal)
    except SealFailed:
        logger.error("recorder: a part cannot be sealed; it is built again from the journal")
        os._exit(DISK_TROUBLE)
    except (OSError, RuntimeError) as exc:
        if not (why := trouble(exc)):
            raise
        logger.error("recorder: the file cannot be written: %s", why)
        os._exit(DISK_TROUBLE)  # HDF5 crashes interpreters that exit with unwritten data on a full disk
    if held is not None:
        held.close()
