"""Proving a recording: is everything in it that was published, once, and are the bytes still what they were?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ether import topics
from ether.checksum import crc32
from ether.errors import RecordingError
from ether.recorder import layout, revisions
from ether.recorder.account import NOBODY, Account, Track
from ether.recorder.entries import LOSSES
from ether.recorder.hollow import raw_payloads
from ether.recorder.layout import MASK, NONE_ID, OFFSETS, SHAPE
from ether.recorder.reader import Parts, open_parts, stream_groups, table_rows
from ether.recorder.seal import content_sha256, dataset_sha256

__all__ = ["Report", "Tally", "verify"]


@dataclass(frozen=True, slots=True)
class Tally:
    """The account of one publisher start on one topic."""

    publisher: str
    """Empty for clients that do not number what they send: of them nothing can be missed."""
    boot: str
    topic: str
    level: str
    """What is guaranteed to it, ``L0`` to ``L3``."""
    first: int
    """First number received; -1 for none."""
    last: int
    """Last number received; -1 for none."""
    announced: int | None
    """What the publisher said at its end to be its last number; None where it said nothing."""
    received: int
    """Readings that came, each once."""
    stored: int
    """Readings in the file's ledger."""
    duplicates: int
    """Messages that came again and were not stored again."""
    holes: list[list[int]]
    """What is missing, as ``[first, last]``."""
    from_start: bool
    """The recorder saw the publisher start, so that 0 is the first number; otherwise `first` is."""
    rejected: int
    """Messages whose payload did not fit into columns: they are kept as bytes only."""

    @property
    def missing(self) -> int:
        return sum(last - first + 1 for first, last in self.holes)


@dataclass(slots=True)
class Report:
    """What `verify` found."""

    file: str
    state: str = "open"
    parts: int = 1
    """Files that it consists of."""
    messages: int = 0
    unnumbered: int = 0
    """Messages of publishers without numbers: of these nothing can be missed."""
    undecoded: int = 0
    """Messages kept as bytes only, since their payload could not be decoded."""
    tallies: list[Tally] = field(default_factory=list)
    reported: list[dict[str, Any]] = field(default_factory=list)
    """What publishers said of losses of their own: ``publisher``, ``boot``, and those of ``dropped`` (given up before
    it was sent), ``unstored`` (not kept for sending again), ``missed`` (never sampled) that are not 0."""
    unproven: list[str] = field(default_factory=list)
    """Publishers whose end nobody knows: they died, or the recorder ended before they did; one line each."""
    damage: list[str] = field(default_factory=list)
    """What is hurt, one line each; empty for a sound file."""
    content_sha256: str | None = None
    revisions: int = 0
    """Remarks that were added afterwards, and are as they were written."""
    revisions_sha256: str | None = None
    """Checksum of the last of them, which stands for all; None where there is none."""

    @property
    def missing(self) -> int:
        """Readings that are known to have been published and are not here."""
        return sum(tally.missing for tally in self.tallies)

    @property
    def complete(self) -> bool:
        """Whether the recording ended in order, misses nothing, and is sound, and all this can be proven."""
        return self.state == "sealed" and not (self.missing or self.unproven or self.damage)

    def as_dict(self) -> dict[str, Any]:
        """Return the report, fit for JSON."""
        found = asdict(self)
        for tally, known in zip(found["tallies"], self.tallies, strict=True):
            tally["missing"] = known.missing
        return {"complete": self.complete, "missing": self.missing, **found}


def verify(path: str | PathLike[str]) -> Report:
    """Check everything that can be checked in one recording. Damage is named in the report, not raised.

    Raises:
        RecordingError: there is no such file, it is no recording, or too damaged to be opened at all.
    """
    parts = open_parts(Path(path))
    report = Report(str(parts.path), parts=len(parts.files), damage=parts.damage)
    known = _Known()
    checks = [_Verifier(file, report, known, len(parts.files) > 1) for file in parts.files]
    try:
        for check in checks:
            check.check_messages()
        for check in checks:
            check.count()
        checks[-1].check_account()
        for check in checks:
            check.check_streams()
            check.check_sums()
        _conclude(report, parts)
    except (OSError, RuntimeError) as exc:
        raise RecordingError(f"{path}: damaged ({exc})".replace("\n", " ")) from exc
    finally:
        for file in parts.files:
            file.close()
    return report


def _conclude(report: Report, parts: Parts) -> None:
    """Say what the parts are together."""
    states = [str(file.attrs.get("state", "open")) for file in parts.files]
    last = parts.files[-1].attrs
    report.state = next((state for state in ("open", "recovered") if state in states), "sealed")
    if last.get("continued"):
        report.state = "open"
    if report.state != "open":
        report.content_sha256 = str(last.get("content_sha256"))
    known, damage = revisions.read(parts.path, str(last.get("content_sha256", "")))
    report.revisions = len(known)
    report.revisions_sha256 = known[-1].sha256 if known else None
    report.damage += damage


class _Known:
    """What is counted over all parts."""

    def __init__(self) -> None:
        self.account = Account()
        self.states: dict[tuple[str, str], str] = {}
        """(Publisher, boot) to its last state."""
        self.losses: dict[tuple[str, str], dict[str, int]] = {}
        self.stored: Counter[tuple[str, str, str]] = Counter()
        self.rejected: Counter[tuple[str, str, str]] = Counter()
        self.jseq = -1


class _Verifier:
    """Checks one part, step by step; damage in one place does not keep the others from being checked."""

    def __init__(self, file: h5py.File, report: Report, known: _Known, one_of_several: bool) -> None:
        self.file = file
        self.report = report
        self.known = known
        self.account = known.account
        self.state = str(file.attrs.get("state", "open"))
        self.ledger = np.empty(0, layout.LEDGER)
        self.topics: list[str] = []
        self.publishers: list[tuple[str, str]] = []
        self._prefix = f"{Path(file.filename).name}: " if one_of_several else ""

    def check_messages(self) -> None:
        with self._naming("/messages"):
            self.ledger = self.file["messages"][:]
            self.report.messages += len(self.ledger)
        with self._naming("/topics and /publishers"):
            self.topics = [row["topic"] for row in self._rows("topics")]
            self.publishers = [(row["name"], row["boot"]) for row in self._rows("publishers")]
        self.report.unnumbered += int((self._flagged(layout.FLAG_NO_NUMBER) & self._is_data()).sum())
        self.report.undecoded += int(self._flagged(layout.FLAG_UNDECODED | layout.FLAG_RAW_ONLY).sum())
        with self._naming("/raw"):
            self._check_raw()
        with self._naming("/provenance/recorder"):
            if "provenance/recorder" in self.file:
                recorder = json.loads(self.file["provenance/recorder"].asstr()[()])
                self.account.confirms = recorder.get("confirms", True) is True
        with self._naming("the journal's damage"):
            damage = self.file.attrs.get("journal_damage")
            if isinstance(damage, np.ndarray):
                for line in damage:
                    self._damaged(f"journal: {line}")

    def _damaged(self, line: str) -> None:
        self.report.damage.append(self._prefix + line)

    @contextmanager
    def _naming(self, place: str) -> Iterator[None]:
        try:
            yield
        except (
            OSError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
        ) as exc:  # fmt: skip
            self._damaged(f"{place}: cannot be read ({exc})".replace("\n", " "))

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return table_rows(self.file[name]) if name in self.file else []

    def _flagged(self, flag: int) -> np.ndarray:
        return np.asarray((self.ledger["flags"] & flag) != 0)

    def _is_data(self) -> np.ndarray:
        reserved = np.array([topics.is_reserved(topic) for topic in self.topics] + [True])
        return np.asarray(~reserved[np.minimum(self.ledger["topic"], len(reserved) - 1)])

    def _check_raw(self) -> None:
        ends = self.ledger["raw_offset"] + self.ledger["raw_length"]
        if len(ends) and (int(ends[-1]) != len(self.file["raw"]) or (self.ledger["raw_offset"][1:] != ends[:-1]).any()):
            self._damaged(f"/raw: holds {len(self.file['raw'])} bytes, the ledger says otherwise")
        order = np.diff(self.ledger["jseq"].astype("<i8"), prepend=self.known.jseq)
        if (order <= 0).any():
            self._damaged("/messages: not in the journal's order")
        self.known.jseq += int(order.sum())
        for row, expected, payload in raw_payloads(self.file):
            if crc32(payload) != expected:
                topic = self._topic(int(self.ledger["topic"][row]))
                self._damaged(f"/raw: message {row} on {topic!r} does not match its checksum")
            elif topics.parse(self._topic(int(self.ledger["topic"][row]))) is not None:
                self._hear(row, payload)

    def _topic(self, number: int) -> str:
        return self.topics[number] if number < len(self.topics) else f"topic {number}"

    def _hear(self, row: int, payload: bytes) -> None:
        """Take from statuses and descriptions, as they came, who was seen to start, what was said at the end, …"""
        reserved = topics.parse(self._topic(int(self.ledger["topic"][row])))
        if reserved is None or reserved.kind not in ("status", "about"):
            return
        try:
            said = json.loads(payload)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if reserved.kind == "about":
            self.account.described(reserved.name, said)
            return
        key = (reserved.name, str(said.get("boot", "")))
        self.known.states[key] = str(said.get("state"))
        if isinstance(counts := said.get("counts"), dict):
            told = {name: counts[name] for name in LOSSES if type(counts.get(name)) is int}
            self.known.losses[key] = {name: count for name, count in told.items() if count}
        self.account.heard(reserved.name, said, bool(self.ledger["flags"][row] & layout.FLAG_RETAIN))

    def count(self) -> None:
        """Count anew, from the ledger alone."""
        with self._naming("the account"):
            data = self.ledger[self._is_data()]
            unfit = data[(data["flags"] & (layout.FLAG_UNDECODED | layout.FLAG_RAW_ONLY)) != 0]
            for row in unfit[["publisher", "topic"]]:
                key = (*self._publisher(int(row["publisher"])), self._topic(int(row["topic"])))
                self.known.rejected[key] += 1
            foreign = data[data["publisher"] == NONE_ID]
            for number in np.unique(foreign["topic"]):
                mine = foreign[foreign["topic"] == number]
                key = (*NOBODY, self._topic(int(number)))
                track = self.account.tracks.get(key) or self.account.open(key)
                track.received += len(mine)
                track.qos = min(track.qos, int(mine["qos"].min()))
                self.known.stored[key] += len(mine)
            numbered = self.ledger[self.ledger["publisher"] != NONE_ID]
            for row in np.unique(numbered[["publisher", "topic"]]):
                mine = numbered[(numbered["publisher"] == row["publisher"]) & (numbered["topic"] == row["topic"])]
                key = (*self.publishers[row["publisher"]], self._topic(int(row["topic"])))
                track = self.account.tracks.get(key) or self.account.open(key)
                again = _take_all(track, mine)
                track.duplicates, track.qos = 0, min(track.qos, int(mine["qos"].min()))
                self.known.stored[key] += int(mine["readings"].sum())
                if again:
                    self._damaged(f"/messages: {again} messages of {key[0]} on {key[2]!r} are stored twice")

    def check_account(self) -> None:
        """Compare with what the recorder counted, as the last part has it of all."""
        with self._naming("the account"):
            counted = {
                (*self._publisher(row["publisher"]), self._topic(row["topic"])): row for row in self._rows("accounts")
            }
            for key in sorted({*self.account.tracks, *counted}):
                self._tally(key, self.account.tracks.get(key) or Track(), counted.get(key, {}))
            self._check_ends()
            self.report.reported = [
                {"publisher": name, "boot": boot, **losses}
                for (name, boot), losses in self.known.losses.items()
                if losses
            ]

    def _publisher(self, number: int) -> tuple[str, str]:
        return NOBODY if number == NONE_ID else self.publishers[number]

    def _tally(self, key: tuple[str, str, str], track: Track, said: dict[str, Any]) -> None:
        first, last = (track.spans[0][0], track.spans[-1][1]) if track.spans else (-1, -1)
        if said and said["received"] != track.received:
            self._damaged(
                f"/accounts: {key[0]} on {key[2]!r}: {said['received']} received, the ledger holds {track.received}"
            )
        self.report.tallies.append(
            Tally(
                *key,
                self.account.level(key) if key in self.account.tracks else said.get("level", ""),
                first,
                last,
                track.last,
                track.received,
                self.known.stored[key],
                said.get("duplicates", 0),
                track.holes(),
                track.fresh,
                self.known.rejected[key],
            )
        )

    def _check_ends(self) -> None:
        """A tail can be missing unseen where a publisher could not say its last numbers, or we could not hear them."""
        ended = str(self.file.attrs.get("ended", ""))
        for tally in self.report.tallies:
            if tally.announced is not None or not tally.publisher:
                continue
            place = f"{tally.publisher} (boot {tally.boot}) on {tally.topic!r} after {tally.last}"
            if self.known.states.get((tally.publisher, tally.boot)) == "lost":
                self.report.unproven.append(f"{place}: it died without telling its last number")
            elif ended not in ("", "stop"):
                self.report.unproven.append(f"{place}: the recorder ended before it did ({ended})")

    def check_streams(self) -> None:
        decoded = ~self._flagged(layout.FLAG_UNDECODED | layout.FLAG_RAW_ONLY) & self._is_data()
        expected = np.bincount(
            self.ledger["topic"][decoded], self.ledger["readings"][decoded], max(1, len(self.topics))
        ).astype(int)
        seen: set[str] = set()
        groups: list[h5py.Group] = []
        with self._naming("/data"):
            groups = stream_groups(self.file)
        for group in groups:
            with self._naming(group.name):
                topic = str(group.attrs["topic"])
                seen.add(topic)
                self._check_stream(group, topic, int(expected[self.topics.index(topic)]))
        for number, topic in enumerate(self.topics):
            if expected[number] and topic not in seen:
                self._damaged(f"/data: nothing of {topic!r}, the ledger holds {expected[number]} readings")

    def _check_stream(self, group: h5py.Group, topic: str, expected: int) -> None:
        rows = len(group["time"])
        if rows != expected:
            self._damaged(f"{group.name}: {rows} readings, the ledger holds {expected}")
        for name, dataset in group.items():
            length = dataset.shape[0]
            if name.endswith(OFFSETS):
                length -= 1
            elif name + OFFSETS in group and not name.endswith((MASK, SHAPE)):
                if int(group[name + OFFSETS][-1]) != length:
                    self._damaged(f"{group.name}/{name}: {length} values do not match their offsets")
                continue
            if length != rows:
                self._damaged(f"{group.name}/{name}: {length} rows, the stream has {rows}")
        messages = group["message"][:]
        if len(messages) and (
            int(messages.max()) >= len(self.ledger)
            or (self.ledger["topic"][messages] != self.topics.index(topic)).any()
        ):
            self._damaged(f"{group.name}/message: points to other messages than its own")

    def check_sums(self) -> None:
        """Compare the checksums that only a finished file has."""
        if self.state == "open":
            return
        with self._naming("content_sha256"):
            said = self.file.attrs.get("content_sha256")
            if said != content_sha256(self.file):
                self._damaged("content_sha256: the messages are not those that were sealed")
        sums: list[dict[str, Any]] = []
        with self._naming("/checksums"):
            sums = table_rows(self.file["checksums"])
        for row in sums:
            with self._naming(f"/{row['path']}"):
                if dataset_sha256(self.file[row["path"]]) != row["sha256"]:
                    self._damaged(f"/{row['path']}: changed since it was sealed")


def _take_all(track: Track, rows: np.ndarray) -> int:
    """Note the numbers of ledger rows; return how many messages were there before."""
    first = rows["n"].astype("<i8")
    last = first + rows["readings"].astype("<i8") - 1
    order = np.argsort(first, kind="stable")
    again = 0
    # Runs of consecutive numbers are taken as one: a recording has millions of them.
    starts = np.flatnonzero(np.concatenate([[True], first[order][1:] != last[order][:-1] + 1]))
    for place, begin in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else len(order)
        low, high = int(first[order[begin]]), int(last[order[end - 1]])
        before = track.received
        track.take(low, high)
        again += (high - low + 1) - (track.received - before)
    return again
