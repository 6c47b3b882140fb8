"""The account of numbered messages: what came once, what came again, what is missing (wire contract, 2 and 8)."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import pydantic_core

from ether import codecs
from ether.model import Envelope

__all__ = ["NOBODY", "Account", "Track", "numbering", "parsed", "readings_in"]

NOBODY = ("", "")
"""Stands for publisher and boot of messages without numbers: MQTT does not tell who sent them."""
_MOST_READINGS = 10_000_000
_CBOR_KEY = b"\x66_ether"


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
        spans = self.spans
        if spans and first == spans[-1][1] + 1:
            spans[-1][1] = last
            self.received += last - first + 1
            return True
        place = bisect_right(spans, first, key=lambda span: span[0])
        if place and spans[place - 1][1] >= last:
            self.duplicates += 1
            return False
        self._merge(place, first, last)
        return True

    def lacking(self, first: int, last: int) -> list[list[int]]:
        """Return what has not come yet of `first` to `last`, as ``[first, last]``, ascending."""
        found = []
        for low, high in self.spans[max(0, bisect_right(self.spans, first, key=lambda span: span[0]) - 1) :]:
            if low > last:
                break
            if low > first:
                found.append([first, low - 1])
            first = max(first, high + 1)
        return [*found, [first, last]] if first <= last else found

    def _merge(self, place: int, first: int, last: int) -> None:
        spans = self.spans
        start = place - 1 if place and spans[place - 1][1] >= first - 1 else place
        end = place
        while end < len(spans) and spans[end][0] <= last + 1:
            end += 1
        had = sum(span[1] - span[0] + 1 for span in spans[start:end])
        low = min([first] + [span[0] for span in spans[start:end]])
        high = max([last] + [span[1] for span in spans[start:end]])
        spans[start:end] = [[low, high]]
        self.received += high - low + 1 - had

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
        return track.take(envelope.n, envelope.n + readings_in(envelope) - 1)

    def lacking(self, topic: str, envelope: Envelope) -> list[list[int]]:
        """Return what of a message has not come yet, as ``[first, last]``."""
        first, last = envelope.n, envelope.n + readings_in(envelope) - 1
        track = self.tracks.get((envelope.by, envelope.b, topic))
        return [[first, last]] if track is None else track.lacking(first, last)

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


def readings_in(envelope: Envelope) -> int:
    """Return how many numbers a message takes: `k` of a batch, one otherwise."""
    k = envelope.k
    return k if type(k) is int and 1 <= k <= _MOST_READINGS else 1


def numbering(payload: bytes) -> Envelope | None:
    """Return ether's facts about a payload; None where there are none or they cannot be read. Never raises.

    Looks at the end of the payload first, where ether's own encoders put them, and never loads NumPy.
    """
    if b"_ether" not in payload[-400:] and b"_ether" not in payload:
        return None
    try:
        if payload.startswith(codecs.CBOR_MAGIC):
            return _numbering_cbor(payload)
        place = payload.rfind(b'"_ether":{')
        if place > 0 and payload[place - 1 : place] in (b"{", b","):
            try:
                found = pydantic_core.from_json(payload[place + 9 : -1])
            except ValueError:
                pass  # it is not the last member
            else:
                return _envelope(found)
        content = pydantic_core.from_json(payload)
        return _envelope(content.get("_ether")) if isinstance(content, dict) else None
    except Exception:  # noqa: BLE001 - a foreign payload that happens to hold our word may raise anything
        return None


def parsed(payload: bytes) -> tuple[dict[str, Any] | None, Envelope | None]:
    """Return the fields of a JSON object, and what `numbering` says of it, at the price of one; never raises.

    Of any other payload the fields are None: they are for `codecs.decode` to find.
    """
    if payload[:1] == b"{":
        with contextlib.suppress(ValueError):  # a text that begins like an object
            fields: dict[str, Any] = pydantic_core.from_json(payload)
            found = fields.pop("_ether", None)
            return fields, _envelope(found) if b"_ether" in payload else None
    return None, numbering(payload)


def _numbering_cbor(payload: bytes) -> Envelope | None:
    import cbor2

    place = payload.rfind(_CBOR_KEY)
    if place > 0:
        with contextlib.suppress(Exception):  # not at the end, or not canonical: take the long way
            found = cbor2.loads(payload[place + len(_CBOR_KEY) :])
            if len(cbor2.dumps(found)) + place + len(_CBOR_KEY) == len(payload):
                return _envelope(found)
    content = cbor2.loads(payload[len(codecs.CBOR_MAGIC) :], tag_hook=lambda *_: None)
    return _envelope(content.get("_ether")) if isinstance(content, dict) else None


def _envelope(found: Any) -> Envelope | None:
    """Return the envelope where its facts have the types they must have."""
    if not isinstance(found, dict):
        return None
    by, boot, number = found.get("by"), found.get("b"), found.get("n")
    if not (isinstance(by, str) and isinstance(boot, str) and type(number) is int and 0 <= number < 1 << 62):
        return None
    replay = found.get("replay")
    replay = replay if isinstance(replay, dict) else None
    return Envelope(by, boot, number, found.get("t"), found.get("ms"), found.get("k"), found.get("dt"), replay)
