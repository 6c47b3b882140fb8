"""The account of numbered messages: what came once, what came again, what is missing (wire contract, 2 and 8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ether import codecs, spans
from ether.model import Envelope

__all__ = ["NOBODY", "Account", "Track"]

NOBODY = ("", "")
"""Stands for publisher and boot of messages without numbers: MQTT does not tell who sent them."""


@dataclass(slots=True)
class Track:
    """The numbers of one publisher start on one topic."""

    spans: list[list[int]] = field(default_factory=list)
    """Received ``[first, last]``, ascending, apart from each other."""
    received: int = 0
    """Readings taken, each once."""
    duplicates: int = 0
    """Messages that came again."""
    fresh: bool = False
    """The recorder saw the publisher start, so numbers begin at 0; otherwise at the first one received."""
    last: int | None = None
    """What the publisher said at its end to be its last number."""
    mark: int | None = None
    """The publisher said that it can send nothing below this number again."""
    qos: int = 2
    """The lowest quality of service that a message came with."""

    def take(self, first: int, last: int) -> bool:
        """Note that `first` to `last` came; False where all of them had come before."""
        new = spans.add(self.spans, first, last)
        self.received += new
        self.duplicates += not new
        return new > 0

    def holes(self) -> list[list[int]]:
        """Return what is missing as ``[first, last]``, ascending."""
        expected = 0 if self.fresh or not self.spans else self.spans[0][0]
        found = []
        for first, last in self.spans:
            if first > expected:
                found.append([expected, first - 1])
            expected = last + 1
        if self.last is not None and self.last >= expected and (self.fresh or self.spans):
            found.append([expected, self.last])
        return found

    def missing(self) -> int:
        return sum(last - first + 1 for first, last in self.holes())

    def wanted(self) -> list[list[int]]:
        """Return the holes that the publisher may be able to mend."""
        if self.mark is None:
            return self.holes()
        found = [[max(first, self.mark), last] for first, last in self.holes() if last >= self.mark]
        if not self.fresh and self.spans and self.spans[0][0] > self.mark:
            found.insert(0, [self.mark, self.spans[0][0] - 1])
        return found

    def watermark(self) -> int | None:
        """Return the number up to which nothing is missing from the mark on; None where the first is."""
        if self.mark is not None and self.spans:
            return next((last for first, last in self.spans if first <= self.mark <= last), self.mark - 1)
        if not self.spans or (self.fresh and self.spans[0][0] > 0):
            return None
        return self.spans[0][1]


class Account:
    """All tracks of a recording. The same calls in the same order give the same account, here and in the writer."""

    def __init__(self) -> None:
        self.tracks: dict[tuple[str, str, str], Track] = {}
        """By (publisher, boot, topic)."""
        self.outboxes: dict[tuple[str, str], str] = {}
        """(Publisher, boot) to where it keeps what is not recorded yet, as far as it said so: ``disk``, ``memory``."""
        self.confirms = True
        """Whether this recorder is the one whose confirmations publishers wait for; see `level`."""
        self._fresh: set[tuple[str, str]] = set()
        self._known: set[tuple[str, str]] = set()

    def take(self, topic: str, envelope: Envelope | None, qos: int = 1) -> bool:
        """Note a message; False where it is a duplicate, which is not to be stored."""
        key = (*NOBODY, topic) if envelope is None else (envelope.by, envelope.b, topic)
        track = self.tracks.get(key) or self.open(key)
        if qos < track.qos:
            track.qos = qos
        if envelope is None:
            track.received += 1
            return True
        return track.take(envelope.n, envelope.n + codecs.readings_in(envelope) - 1)

    def lacking(self, topic: str, envelope: Envelope) -> list[list[int]]:
        """Return what of a message has not come yet, as ``[first, last]``."""
        first, last = envelope.n, envelope.n + codecs.readings_in(envelope) - 1
        track = self.tracks.get((envelope.by, envelope.b, topic))
        return [[first, last]] if track is None else spans.lacking(track.spans, first, last)

    def again(self, by: str, boot: str, topic: str, count: int) -> None:
        """Note duplicates that were counted elsewhere."""
        key = (by, boot, topic)
        track = self.tracks.get(key) or self.open(key)
        track.duplicates += count

    def heard(self, name: str, status: dict[str, Any], replay: bool) -> None:
        """Note a status: a publisher seen to start numbers from 0; one that stops says its last numbers."""
        boot = str(status.get("boot", ""))
        key = (name, boot)
        if key not in self._known:
            self._known.add(key)
            if status.get("state") == "init" and not replay:
                self._fresh.add(key)
        self.described(name, status)
        last = status.get("last")
        if status.get("state") == "disconnected" and isinstance(last, dict):
            for topic, number in last.items():
                if type(number) is int and number >= 0:
                    track = self.tracks.get((name, boot, topic)) or self.open((name, boot, topic))
                    track.last = max(number, -1 if track.last is None else track.last)

    def described(self, name: str, about: dict[str, Any]) -> None:
        """Note a self-description, or a status that says as much: whether its publisher has an outbox."""
        if (outbox := about.get("outbox")) in ("disk", "memory"):
            self.outboxes[name, str(about.get("boot", ""))] = outbox

    def level(self, key: tuple[str, str, str]) -> str:
        """Return what is guaranteed to a publisher on a topic, ``L0`` to ``L3``, as the reference of the file says.

        An outbox promises nothing to a recorder that only listens: it is emptied when another one has its content.
        """
        outbox = self.outboxes.get(key[:2], "") if key[:2] != NOBODY and self.confirms else ""
        if outbox:
            return "L3" if outbox == "disk" else "L2"
        return "L1" if self.tracks[key].qos else "L0"

    def levels(self) -> dict[str, int]:
        """Return how many readings came at each level."""
        found: dict[str, int] = {}
        for key, track in list(self.tracks.items()):
            level = self.level(key)
            found[level] = found.get(level, 0) + track.received
        return found

    def missing(self) -> int:
        return sum(track.missing() for track in self.tracks.values())

    def all_said_goodbye(self) -> bool:
        """Return whether every publisher has said its last numbers, and all up to them have come."""
        return all(
            track.last is not None and track.spans and track.spans[-1][1] >= track.last
            for key, track in list(self.tracks.items())
            if key[:2] != NOBODY
        )

    def duplicates(self) -> int:
        return sum(track.duplicates for track in self.tracks.values())

    def state(self) -> dict[str, Any]:
        """Return everything known, fit for JSON; `restored` makes an account of it again."""
        tracks = [
            [*key, track.spans, track.received, track.duplicates, track.fresh, track.last, track.mark, track.qos]
            for key, track in self.tracks.items()
        ]
        outboxes = [[*key, outbox] for key, outbox in self.outboxes.items()]
        return {"tracks": tracks, "outboxes": outboxes, "fresh": sorted(self._fresh), "known": sorted(self._known)}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Account:
        found = cls()
        for by, boot, topic, *facts in state["tracks"]:
            found.tracks[by, boot, topic] = Track(*facts)
        found.outboxes = {(name, boot): outbox for name, boot, outbox in state["outboxes"]}
        found._fresh = {(name, boot) for name, boot in state["fresh"]}
        found._known = {(name, boot) for name, boot in state["known"]}
        return found

    def open(self, key: tuple[str, str, str]) -> Track:
        """Return a new track, begun at 0 where the publisher was seen to start."""
        self._known.add(key[:2])
        track = self.tracks[key] = Track(fresh=key[:2] in self._fresh)
        return track
