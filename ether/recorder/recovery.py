"""Recovery: what a session that was killed left behind is made into recordings, and nothing that was stored is lost.

Two things may be left beside a recording: its journal, and outboxes of publishers that were killed. What the outboxes
hold goes into the journal, and the file is made of that. A file that is sealed is never touched again: what it lacks
becomes a recording of its own beside it. All of this may be killed at any point, and be run again.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ether import process
from ether.errors import EtherError, JournalError
from ether.journal import SUFFIX, Journal, JournalReader
from ether.outbox import hand_over, leftovers, let_go, outbox_folder
from ether.recorder import seal
from ether.recorder.account import NOBODY, Account
from ether.recorder.entries import Kind, journal_folder, unpack
from ether.recorder.ingest import Ingest, beside
from ether.recorder.parts import Resume, first_of, is_taken
from ether.recorder.reader import open_recording
from ether.recorder.verify import verify

__all__ = ["Recovered", "main", "recover", "unfinished"]

logger = logging.getLogger(__name__)

_COMMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was made of the remains of one recording."""

    recording: Path
    """The file that was made; where none was, the one asked for."""
    made: bool
    messages: int = 0
    """How many are in it."""
    from_outboxes: int = 0
    """Readings in it that publishers had left which were killed."""

    def as_dict(self) -> dict[str, Any]:
        """Return it, fit for JSON."""
        return {**asdict(self), "recording": str(self.recording)}


def unfinished(folder: Path, below: bool = True) -> list[Path]:
    """Return the recordings in a folder, and below it, of which a journal or outboxes are left; running ones too."""
    found = set()
    for place, names, _ in os.walk(folder) if below else islice(os.walk(folder), 1):
        for name in names:
            path = Path(place, name)
            if name.startswith(".") and (path.suffix == ".journal" or (path.suffix == ".outbox" and _kept(path))):
                found.add(path.with_name(path.stem[1:] + _suffix(path.with_suffix(".journal"))))
        names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found)


def _kept(outboxes: Path) -> bool:
    """Return whether a publisher has left anything."""
    return any(map(leftovers, leftovers(outboxes)))


def _suffix(journal: Path) -> str:
    """Return how the name of a journal's recording ends, as its recorder wrote it down."""
    try:
        with JournalReader(journal) as reader:
            entries = map(unpack, reader)
            orders = next(json.loads(entry.payload) for entry in entries if entry.kind == Kind.SESSION)
            return Path(orders["file"]).suffix
    except (EtherError, ValueError, KeyError, TypeError, StopIteration):
        return ".h5"  # and who recovers it says what is wrong


def recover(recording: Path) -> Recovered:
    """Make a recording of what is left of it, and remove the remains.

    Raises:
        JournalError: its recorder is running, or the disk refuses.
        RecordingError: the file does not hold what the journal holds; the journal stays.
    """
    recording = first_of(recording.absolute())
    outboxes = outbox_folder(recording)
    shutil.rmtree(journal_folder(recording).with_suffix(seal.DROPPED), ignore_errors=True)
    whole = is_taken(recording) and not journal_folder(recording).is_dir()
    target = beside(recording) if whole else recording
    taken = 0
    if _kept(outboxes):
        taken = _fold(outboxes, target, _account_of(recording) if whole else Account())
        if whole and not taken:
            shutil.rmtree(journal_folder(target))  # nothing was new
    if not seal.recover(target):
        return Recovered(recording, made=False)
    with open_recording(target) as made:
        return Recovered(target, True, made.info()["messages"], taken)


def _fold(outboxes: Path, target: Path, account: Account) -> int:
    """Put what dead publishers left into a journal, as far as it is new to it and the account; return how much was."""
    troubles: list[str] = []
    ingest = Ingest(
        wanted=["#"], exclude=[], acknowledge=lambda _: None, confirm=lambda *_: None, stop=lambda: None,
        trouble=troubles.append,
    )  # fmt: skip
    ingest.account = account
    if journal_folder(target).is_dir():
        with seal.Held(journal_folder(target)):
            pass  # its recorder has ended, and so have the writer and sealer of it
    resume = Resume.load(journal_folder(target))
    if resume.carry:
        ingest.take_over(resume.carry)
    with Journal(journal_folder(target), replay=ingest.replayed, start=resume.start) as journal:
        before = _received(ingest.account)
        ingest.start(journal)
        if not journal.recovery.records:
            ingest.write(Kind.SESSION, {"file": str(target), "session": {"name": f"left of {outboxes.stem[1:]}"}})
        boxes = hand_over(outboxes, lambda message: ingest.take(message, None))
        stored = ingest.close(None, _COMMIT_S)
        let_go(boxes, stored)
    if not stored:
        raise JournalError(None, troubles[-1] if troubles else f"{target}: the disk did not take it in time")
    return _received(ingest.account) - before


def _received(account: Account) -> int:
    return sum(track.received for track in account.tracks.values())


def _account_of(recording: Path) -> Account:
    """Return what a finished recording holds of each publisher."""
    account = Account()
    for tally in verify(recording).tallies:
        key = (tally.publisher, tally.boot, tally.topic)
        if key[:2] == NOBODY or tally.first < 0:
            continue
        track = account.open(key)
        for first, last in _between(tally.first, tally.last, tally.holes):
            track.take(first, last)
    return account


def _between(first: int, last: int, holes: Iterable[list[int]]) -> Iterable[tuple[int, int]]:
    for begin, end in holes:
        if begin > first:
            yield first, min(begin - 1, last)
        first = max(first, end + 1)
    if first <= last:
        yield first, last


def main() -> None:
    """Run as a process that recovers what killed sessions left where a session records to; orders: ``ours``."""
    given = process.orders()
    process.log_to_stderr("recovery", given["log_level"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    process.on_orphaned(lambda: os._exit(1))
    if hasattr(os, "nice"):
        os.nice(10)
    ours = Path(given["ours"])
    for path in unfinished(ours.parent, below=False):
        journal = journal_folder(path)
        if path == ours or (journal.is_dir() and not any(journal.glob(f"*{SUFFIX}"))):
            continue  # of a session that runs, or is just starting
        try:
            found = recover(path)
        except JournalError as exc:
            if exc.errno != errno.EAGAIN:  # a running session's
                logger.warning("%s cannot be recovered: %s", path, exc)
        except (EtherError, OSError) as exc:
            logger.warning("%s cannot be recovered: %s", path, exc)
        else:
            if found.made:
                logger.warning(
                    "%s: recovered %d messages of a session that was killed", found.recording, found.messages
                )
