"""Replay: publish a recording's data again into a live session, marked as such, and compare what comes of it.

The rules stand in the wire reference: a replayed message is a new message of the replaying client, with a number of its
own, and its envelope says in ``replay`` what it was.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ether as package
from ether import clock, codecs, topics
from ether.errors import PayloadError, RecordingError, SessionError, suggest
from ether.guest import Guest
from ether.member import about_json
from ether.model import GONE, About, Annotation, Envelope, Message, Run, State
from ether.mqtt import Connection, Receipt
from ether.recorder.compare import Comparison, Difference
from ether.recorder.layout import REPLAY
from ether.recorder.reader import Recorded, Recording, open_recording

__all__ = ["Replayed", "replay"]

logger = logging.getLogger(__name__)

LATE_S = 0.01
"""A message that goes out so much behind its time is late."""
_IN_FLIGHT_BYTES = 16 << 20
_QUIET_S = 0.5
_PATIENCE_S = 15.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did."""

    messages: int
    """Published."""
    left_out: int
    """Of those chosen: what replaced instances had published."""
    unreadable: int
    """Not published, since they are damaged CBOR."""
    late: int
    """Published more than 10 ms behind their time."""
    most_late_s: float
    duration_s: float
    interrupted: bool
    differences: tuple[Difference, ...] | None
    """One for each publisher and topic that was compared; None where nothing was."""

    @property
    def same(self) -> bool:
        """Whether everything that was compared is equal."""
        return all(each.same for each in self.differences or ())


def replay(
    origin: Connection,
    file: str | os.PathLike[str],
    *,
    speed: float = 1.0,
    loop: bool = False,
    topic_filters: Iterable[str] = (),
    run: Run | str | None = None,
    start: float | None = None,
    end: float | None = None,
    instead: Iterable[str] = (),
    diff: bool = False,
    tolerance: float = 1e-9,
    ignore: Iterable[str] = (),
    settle: float = 5.0,
    stop: threading.Event | None = None,
    progress: Callable[[float, float], None] = lambda done_s, total_s: None,
) -> Replayed:
    """Publish a recording again over a connection of its own; see `Ether.replay` for the arguments.

    Args:
        origin: a connection to the session; the new one leads to the same broker and namespace.
    """
    if not speed > 0:
        raise ValueError(f"speed {speed}: it is how many times as fast, such as 10, or infinity")
    if loop and diff:
        raise ValueError("a replay that loops has no end at which to compare; leave out one of loop and diff")
    with open_recording(file) as recording:
        chosen = _Chosen(recording, list(map(topics.check_filter, topic_filters)), run, start, end)
        if next(iter(chosen), None) is None:
            raise RecordingError(f"{recording.path}: no message in what was asked for")
        guest = Guest(origin.url, origin.namespace, origin.tls, kind="replay")
        guest.open()
        try:
            player = _Player(guest, recording, chosen, speed, stop or threading.Event(), progress)
            player.leave_out(instead, diff, tolerance, ignore)
            return player.play(loop, settle)
        finally:
            guest.close()


class _Chosen:
    """Which messages of a recording are meant: data, by topic and by when they were received."""

    def __init__(
        self,
        recording: Recording,
        topic_filters: list[str],
        run: Run | str | None,
        start: float | None,
        end: float | None,
    ) -> None:
        self._recording = recording
        self._filters = topic_filters
        try:
            self._spans = recording.spans(run, start, end)
        except KeyError as exc:
            raise SessionError(exc.args[0]) from None

    def __iter__(self) -> Iterator[tuple[int, Recorded]]:
        """Yield each message, and in which of the stretches it was received."""
        for message in self._recording.messages():
            at = message.received_ns
            stretch = next((place for place, (first, last) in enumerate(self._spans) if first <= at < last), None)
            if (
                stretch is not None
                and not message.retain
                and topics.parse(message.topic) is None
                and self.wants(message.topic)
            ):
                yield stretch, message

    def wants(self, topic: str) -> bool:
        return not self._filters or topics.matches_any(self._filters, topic)

    def length_s(self) -> float:
        """Return how long the stretches are, at most."""
        first, last = self._recording.span_ns
        return sum(max(0, min(last, end) - max(first, start)) for start, end in self._spans) / 1e9


class _Player:
    """Publishes what was chosen, at its time."""

    def __init__(
        self,
        guest: Guest,
        recording: Recording,
        chosen: _Chosen,
        speed: float,
        stop: threading.Event,
        progress: Callable[[float, float], None],
    ) -> None:
        self._guest = guest
        self._client = guest.client
        self._hosted = "session" in self._client.statuses
        self._recording = recording
        self._chosen = chosen
        self._speed = speed
        self._stop = stop
        self._progress = progress
        self._sent = self._left_out = self._unreadable = self._late = 0
        self._most_late_s = 0.0
        self._in_flight = 0
        self._replaced: set[str] = set()
        self._replaced_topics: dict[str, str] = {}
        self._comparing: dict[str, Any] | None = None
        self._comparisons: dict[tuple[str, str], Comparison] = {}
        self._making = threading.Lock()
        self._heard: dict[tuple[str, str, str], int] = {}
        self._heard_at = clock.monotonic()

    # --- what live instances produce

    def leave_out(self, names: Iterable[str], diff: bool, tolerance: float, ignore: Iterable[str]) -> None:
        """Leave out what these live instances produce now, and compare it if `diff` says so."""
        publishers = {row["name"] for row in self._recording.publishers}
        live = {name for name, status in self._client.statuses.items() if status.state not in GONE}
        live -= {"session", "recorder"}
        self._replaced = set(names)
        for name in self._replaced - live:
            hint = suggest(name, live) or f"; alive: {', '.join(sorted(live)) or 'nobody'}"
            raise SessionError(f"no live instance {name!r} to replace what was recorded{hint}")
        if diff and not self._replaced:
            self._replaced = live & publishers
            if not self._replaced:
                raise SessionError(
                    f"nothing to compare: none of the live instances ({', '.join(sorted(live)) or 'none'}) "
                    f"has published in {self._recording.path.name}"
                )
        for name in sorted((live & publishers) - self._replaced):
            about = self._client.abouts.get(name)
            if about is not None and not any(map(self._chosen.wants, about.publishes)):
                continue
            logger.warning(
                "%s is live and is in the recording too: both come on its topics; replace it to leave out the recorded",
                name,
            )
        for name in self._replaced - publishers:  # it has another name than then: its topics tell
            about = self._client.abouts.get(name)
            for topic in about.publishes if about is not None else ():
                self._replaced_topics[topic] = name
        if diff:
            self._comparing = {"tolerance": tolerance, "ignore": tuple(ignore)}
            self._listen()

    def _replacement(self, message: Recorded) -> str | None:
        """Return the live instance that produces this message now, if one does."""
        return message.publisher if message.publisher in self._replaced else self._replaced_topics.get(message.topic)

    def _listen(self) -> None:
        connection = self._guest.connection
        take = connection.on_message

        def hear(message: Message, receipt: Receipt | None) -> None:
            if topics.parse(message.topic) is None:
                self._hear(message)
            else:
                take(message, receipt)

        connection.on_message = hear
        connection.subscribe([topics.ALL])

    def _hear(self, message: Message) -> None:
        """Take a message that one of the replaced publishes now, once; in the network thread."""
        envelope = codecs.numbering(message.payload)
        if envelope is None or envelope.by not in self._replaced or envelope.replay is not None or message.retain:
            return
        key = (envelope.by, envelope.b, message.topic)
        if envelope.n <= self._heard.get(key, -1):
            return
        self._heard[key] = envelope.n + codecs.readings_in(envelope) - 1
        self._comparison(message.topic, envelope.by).now.extend(_readings(message.payload))
        self._heard_at = clock.monotonic()

    def _comparison(self, topic: str, name: str) -> Comparison:
        assert self._comparing is not None
        with self._making:
            found = self._comparisons.get((topic, name))
            if found is None:
                found = self._comparisons[topic, name] = Comparison(topic, name, **self._comparing)
            return found

    # --- playing

    def play(self, loop: bool, settle: float) -> Replayed:
        """Publish everything, again and again if `loop`, wait for what comes of it, and return what was done."""
        began, since = clock.now(), clock.monotonic()
        facts: dict[str, Any] = {
            "file": str(self._recording.path.absolute()), "session": self._recording.session,
            "content_sha256": self._recording.content_sha256, "speed": str(self._speed),
            "replaced": sorted(self._replaced),
        }  # fmt: skip
        self._introduce(facts)
        title = f"replay of {self._recording.path.name}"
        self._client.annotate(Annotation(f"{title} begins", began, None, ("replay",), facts, self._client.name))
        outcome = "interrupted"
        differences = None
        try:
            more = True
            while more and not self._stop.is_set():
                before = self._sent
                self._round()
                more = loop and self._sent > before
            if not self._stop.is_set():
                self._guest.connection.flush(30.0)
                differences = self._settle(settle) if self._comparing is not None else None
                if differences == () and not self._stop.is_set():
                    names = ", ".join(sorted(self._replaced))
                    raise SessionError(f"nothing was compared: {names} published nothing of it, neither then nor now")
                outcome = "done" if not self._stop.is_set() else outcome
        finally:
            facts |= {"messages": self._sent, "late": self._late, "outcome": outcome}
            self._client.annotate(Annotation(title, began, clock.now(), ("replay",), facts, self._client.name), 0)
        return Replayed(
            self._sent, self._left_out, self._unreadable, self._late, self._most_late_s,
            clock.monotonic() - since, outcome != "done", None if outcome != "done" else differences,
        )  # fmt: skip

    def _introduce(self, facts: dict[str, Any]) -> None:
        """Describe ourselves, unretained, with what the publishers then said of the topics: units, types."""
        described: dict[str, Any] = {}
        for row in self._recording.provenance["instances"]:
            told = row["about"] if isinstance(row["about"], dict) else {}
            described |= told.get("publishes") or {}
        about = About(
            self._client.name, self._client.boot, REPLAY, socket.gethostname(), os.getpid(), package.__version__,
            kwargs=facts, publishes=described,
        )  # fmt: skip
        self._guest.connection.publish(topics.about(self._client.name), about_json(about), 1)

    def _round(self) -> None:
        """Publish the chosen messages once. Deadlines are counted from the first: being late adds up to nothing."""
        before: tuple[int, Recorded] | None = None
        position_s, total_s = 0.0, self._chosen.length_s()
        start = start_wall = 0.0
        for stretch, message in self._chosen:
            if before is None:  # only now: to find the first one may take a while
                start, start_wall = clock.monotonic(), clock.now()
            elif before[0] == stretch:  # what lies between two runs is left out
                position_s += _step_s(before[1], message)
            before = stretch, message
            due_s = position_s / self._speed
            if not self._wait(start + due_s):
                return
            paced = math.isfinite(self._speed)
            self._send(message, start_wall + due_s if paced else clock.now())
            self._progress(position_s, total_s)
        self._progress(total_s, total_s)

    def _wait(self, due: float) -> bool:
        """Wait until a message is due; False when told to stop."""
        behind = clock.monotonic() - due
        if math.isfinite(self._speed) and behind > LATE_S:
            self._late += 1
            self._most_late_s = max(self._most_late_s, behind)
        while (left := due - clock.monotonic()) > 0:
            if self._stop.wait(min(left, 1.0)):
                break
            self._hold_on()  # a session may end in a long pause
        return not self._stop.is_set()

    def _send(self, message: Recorded, wall: float) -> None:
        name = self._replacement(message)
        if name is not None:
            self._left_out += 1
            if self._comparing is not None:
                comparison = self._comparison(message.topic, name)
                comparison.recorded.extend(_readings(message.payload))
                comparison.advance()
            return
        was = codecs.numbering(message.payload)

        def encode(number: int) -> bytes:
            envelope = _envelope(message, was, wall, self._speed)
            return codecs.with_envelope(message.payload, replace(envelope, by=by, b=boot, n=number))

        by, boot = self._client.name, self._client.boot
        self._hold_on()
        try:
            readings = 1 if was is None else codecs.readings_in(was)
            self._client.publisher.send(message.topic, encode, readings, message.qos)
        except PayloadError:
            self._unreadable += 1
            return
        self._sent += 1
        self._in_flight += len(message.payload)
        if self._in_flight > _IN_FLIGHT_BYTES:
            # The connection bounds how many are under way, not how large they are; and the recorder may be slower.
            self._in_flight = 0
            self._guest.connection.flush(_PATIENCE_S)
            if self._client.publisher.outbox is not None:
                self._client.publisher.outbox.settle(_PATIENCE_S)

    def _hold_on(self) -> None:
        """Wait for a lost connection to come back; SessionError where the session has ended."""
        session = self._client.statuses.get("session")
        ended = self._hosted and (session is None or session.state is State.DISCONNECTED)
        patience = clock.monotonic() + _PATIENCE_S
        while not ended and not self._guest.connection.connected and not self._stop.wait(0.05):
            ended = clock.monotonic() > patience
        if ended:
            raise SessionError(f"the session ended; {self._sent} messages of {self._recording.path.name} were replayed")

    # --- the end of a comparison

    def _settle(self, within: float) -> tuple[Difference, ...]:
        """Wait until all that was recorded has come, or nothing more comes, and compare the rest."""
        self._heard_at = max(self._heard_at, clock.monotonic() - _QUIET_S)
        comparisons: list[Comparison] = []
        while not self._stop.wait(0.02):
            quiet = clock.monotonic() - self._heard_at
            with self._making:
                comparisons = list(self._comparisons.values())
            for each in comparisons:
                each.advance()
            if quiet >= (_QUIET_S if all(each.reached for each in comparisons) else within) and not self._busy():
                break
        for each in comparisons:
            each.advance(final=True)
        return tuple(each.result for _, each in sorted(self._comparisons.items()))

    def _busy(self) -> bool:
        """Return whether an instance still has messages to handle, by its own word."""
        statuses = self._client.statuses
        return any(
            status.counts.get("queued") and status.state not in GONE
            for name in self._replaced
            if (status := statuses.get(name)) is not None
        )


def _step_s(before: Recorded, message: Recorded) -> float:
    """Return the seconds between two receipts, by the monotonic clock unless the recorder's machine was restarted."""
    step = message.mono_ns - before.mono_ns
    return (step if step >= 0 else max(0, message.received_ns - before.received_ns)) / 1e9


def _envelope(message: Recorded, was: Envelope | None, wall: float, speed: float) -> Envelope:
    """Return the envelope of a replayed message, whose number and publisher are still to be filled in.

    Its time is that of the replay: as far from `wall` as the recorded one was from its receipt. Device time, which is
    nobody's here, becomes such a time too.
    """
    received = message.received_ns / 1e9
    scale = 1.0 if math.isinf(speed) else 1 / speed
    if was is None:
        return Envelope("", "", 0, _rounded(wall), replay={"t": _rounded(received)})
    origin = was.replay or {
        key: value
        for key, value in (("by", was.by), ("b", was.b), ("n", was.n), ("t", _first(was.t)), ("ms", _first(was.ms)))
        if value is not None
    }
    try:
        if was.ms is None:
            stamps, unit, anchor = received if was.t is None else was.t, 1.0, received
        else:
            stamps, unit, anchor = was.ms, 1e-3, _last(was) * 1e-3

        def moved(stamp: float) -> float:
            return _rounded(wall + (stamp * unit - anchor) * scale)

        t = [moved(stamp) for stamp in stamps] if isinstance(stamps, list) else moved(stamps)
        dt = None if was.dt is None else was.dt * unit * scale
    except (TypeError, ValueError, OverflowError):  # stamps that are none
        t, dt = _rounded(wall), None
    return Envelope("", "", 0, t, k=was.k, dt=dt, replay=origin)


def _last(envelope: Envelope) -> float:
    """Return the device time of the last reading."""
    if isinstance(envelope.ms, list):
        return envelope.ms[-1] if envelope.ms else 0.0
    return (envelope.ms or 0.0) + (envelope.dt or 0.0) * (codecs.readings_in(envelope) - 1)


def _first(stamps: float | list[float] | None) -> float | None:
    return (stamps[0] if stamps else None) if isinstance(stamps, list) else stamps


def _rounded(t: float) -> float:
    """Return a time at the resolution of the wire."""
    return round(t, 6)


def _readings(payload: bytes) -> list[dict[str, Any]]:
    """Return the fields of each reading in a message; what cannot be read is one reading of its bytes."""
    try:
        fields, envelope = codecs.decode(payload)
        if envelope is None or envelope.k is None:
            return [fields]
        return [each for each, _ in codecs.unpack(fields, envelope)]
    except PayloadError:
        return [{"value": payload}]
