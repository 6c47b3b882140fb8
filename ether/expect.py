"""Expectations: the streams that must come by (`expect:`), and what each is short of at this moment."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ether import clock, codecs, topics
from ether.config import Expect, Rate
from ether.errors import PayloadError
from ether.model import About, Message, State, Status

__all__ = ["Expectations", "Shortfall", "other_units"]

_AT_LEAST_S = 5.0
"""A stream may take so long to begin, and is measured over at least so long."""
_PERIODS = 10
"""A rate is measured over so many periods."""
_SILENT_AFTER = 3
"""Silent is a stream from which so many readings in a row have not come."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """One way in which a stream, or the broker, is not as expected."""

    topic: str
    """The topic or filter of `expect:`; the broker's counter."""
    kind: str
    """``missing``, ``silent``, ``slow``, ``fast``, ``from`` or ``unit``; of the broker, ``dropped``."""
    detail: str
    """For people, with numbers that change while it lasts."""
    over: str = ""
    """What to say once it is over; by default ``was KIND``."""


class Expectations:
    """Counts what comes by. `receive` and `look` may be called in different threads."""

    def __init__(self, wanted: Mapping[str, Expect]) -> None:
        self.required = [topic for topic, each in wanted.items() if each.required]
        self._streams = [_Stream(topic, each) for topic, each in wanted.items()]
        self._lock = threading.Lock()
        self._since: float | None = None

    def begin(self) -> None:
        """From now on the streams are expected; before, nothing is missed."""
        if self._since is None:
            self._since = clock.monotonic()

    def receive(self, message: Message) -> None:
        """Count a message, retained replays excepted."""
        if message.retain:
            return
        now = clock.monotonic()
        with self._lock:
            for stream in self._streams:
                if topics.matches(stream.topic, message.topic):
                    stream.count(message, now)

    def look(
        self, abouts: Mapping[str, About], statuses: Mapping[str, Status], *, patient: bool = True
    ) -> list[Shortfall]:
        """Return what is not as expected now; empty where all is, or nothing has begun.

        Args:
            abouts: descriptions of those who are there.
            statuses: and what they say of themselves.
            patient: give a stream time to begin, and to be measured.
        """
        if self._since is None:
            return []
        now = clock.monotonic()
        with self._lock:
            since = self._since if patient else -math.inf
            return [found for stream in self._streams for found in stream.look(now, since, abouts, statuses)]

    def waiting(self) -> bool:
        """Return whether a stream has yet to come, or to come for long enough to be measured."""
        now = clock.monotonic()
        with self._lock:
            return self._since is None or any(stream.measured(now) is None for stream in self._streams)

    def never_came(self) -> list[str]:
        """Return the required streams from which nothing has come at all."""
        with self._lock:
            return [stream.topic for stream in self._streams if stream.expect.required and stream.first is None]


class _Stream:
    def __init__(self, topic: str, expect: Expect) -> None:
        self.topic = topic
        self.expect = expect
        self.first: float | None = None
        self._last = 0.0
        self._publisher: str | None = None
        self._on = ""
        self._seconds: deque[tuple[int, int]] = deque()
        """Second by the monotonic clock, readings in it."""

    @property
    def _window_s(self) -> int:
        return math.ceil(max(_AT_LEAST_S, _PERIODS / self.expect.rate.hz)) if self.expect.rate else 0

    def count(self, message: Message, now: float) -> None:
        readings = 1
        try:
            envelope = codecs.envelope_of(message.payload)
        except PayloadError:
            envelope = None
        if envelope is not None:
            readings = envelope.k or 1
        self.first = now if self.first is None else self.first
        self._last, self._on = now, message.topic
        self._publisher = envelope.by if envelope is not None else None
        if not self.expect.rate:
            return
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            readings += self._seconds.pop()[1]
        self._seconds.append((second, readings))
        while self._seconds[0][0] < second - self._window_s:
            self._seconds.popleft()

    def measured(self, now: float) -> float | None:
        """Return readings per second over the window; None where nothing has come, or not for so long."""
        if self.first is None or now - self.first < self._window_s + 1:
            return 0.0 if self.first is not None and not self.expect.rate else None
        second = int(now)
        return sum(count for at, count in self._seconds if second - self._window_s <= at < second) / self._window_s

    def look(
        self, now: float, since: float, abouts: Mapping[str, About], statuses: Mapping[str, Status]
    ) -> list[Shortfall]:
        rate = self.expect.rate
        if self.first is None:
            waited = now - since
            patience = max(_AT_LEAST_S, _SILENT_AFTER / rate.hz) if rate else _AT_LEAST_S
            if waited < patience:
                return []
            why = self._why(abouts, statuses)
            span = f" for {waited:.0f} s" if waited < math.inf else ""
            return [Shortfall(self.topic, "missing", f"nothing has come{span}: {why}")]
        found = []
        if rate is not None:
            found += self._look_at_rate(now, rate, abouts, statuses)
            if not found and since == -math.inf and self.measured(now) is None:
                found.append(Shortfall(self.topic, "missing", "it has not come for long enough to be measured"))
        if self.expect.from_ is not None and self._publisher != self.expect.from_:
            sender = self._publisher or "a client that does not say its name"
            found.append(Shortfall(self.topic, "from", f"comes from {sender}, not from {self.expect.from_}"))
        found += [Shortfall(self.topic, "unit", detail) for detail in self._units(abouts)]
        return found

    def _look_at_rate(
        self, now: float, rate: Rate, abouts: Mapping[str, About], statuses: Mapping[str, Status]
    ) -> list[Shortfall]:
        silence = now - self._last
        if silence > max(1.0, _SILENT_AFTER / rate.hz):
            detail = f"nothing for {silence:.0f} s, {_shown(rate.hz)} expected: {self._why(abouts, statuses)}"
            return [Shortfall(self.topic, "silent", detail)]
        measured = self.measured(now)
        if measured is None:
            return []
        slack = rate.hz * rate.tolerance + 1.5 / self._window_s  # a reading at either edge of the window
        if abs(measured - rate.hz) <= slack:
            return []
        kind = "slow" if measured < rate.hz else "fast"
        detail = f"{_shown(measured)}, {_shown(rate.hz)} ±{rate.tolerance * 100:g}% expected"
        return [Shortfall(self.topic, kind, detail)]

    def _why(self, abouts: Mapping[str, About], statuses: Mapping[str, Status]) -> str:
        """Return what is known of those who should publish it."""
        declared = [
            name for name, about in abouts.items() if any(topics.matches(self.topic, each) for each in about.publishes)
        ]
        names = [self.expect.from_] if self.expect.from_ is not None else declared
        if not names:
            return "no instance says that it publishes it"
        said = []
        for name in names:
            status = statuses.get(name)
            if status is None:
                said.append(f"{name} is not there")
            elif status.state is State.READY:
                said.append(f"{name} is ready" if name in declared else f"{name} is ready, but does not publish it")
            else:
                first = status.detail.partition("\n")[0]
                said.append(f"{name} is {status.state}{f' ({first})' if first else ''}")
        return ", ".join(said)

    def _units(self, abouts: Mapping[str, About]) -> list[str]:
        """Return where the publisher's description names another unit, or none."""
        about = abouts.get(self._publisher or "")
        if about is None or self._on not in about.publishes:
            return []
        return other_units(self.expect.unit, about.publishes[self._on].get("fields") or {})


def other_units(wanted: str | Mapping[str, str] | None, fields: Mapping[str, Any]) -> list[str]:
    """Return which fields of a description are not in the unit that is wanted, one for all or one for each."""
    if wanted is None:
        return []
    by_field = dict.fromkeys(fields or ["value"], wanted) if isinstance(wanted, str) else wanted
    return [
        f"{name} is in {unit or 'no unit'}, {by_field[name]} expected"
        for name in by_field
        if (unit := (fields.get(name) or {}).get("unit")) != by_field[name]
    ]


def _shown(hz: float) -> str:
    return f"{hz:.3g} Hz" if hz >= 0.1 else f"{hz * 60:.3g}/min"
