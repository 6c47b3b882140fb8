"""Watch a board for a minute, and say which of the levels of hardware/PROTOCOL.md it keeps.

    python hardware/check_board.py bench1 --broker mqtt://192.168.1.5
    python hardware/check_board.py bench1 --broker mqtt://192.168.1.5 --through 1884

With `--through` the board is to connect to that port of this machine instead of the broker: half-way its connection is
cut, and the port stays closed for five seconds. Without it, restart the broker meanwhile, or pull the board's network.
Exit code 1 where something failed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from ether import codecs, topics
from ether.address import Address
from ether.cli import output
from ether.config import duration
from ether.errors import EtherError, PayloadError
from ether.member import read_about, read_status
from ether.model import About, Envelope, Message, State, Status
from ether.mqtt import Connection, Tls
from ether.recorder.device_clock import DeviceClock, Sample

PING_S = 0.5
CUT_S = 5.0
GRACE_S = 10.0
"""What a board may need to come back."""
OK, WARNING, FAILED = "ok", "warning", "failed"


class Row(NamedTuple):
    """One line of the verdict."""

    subject: str
    verdict: str
    found: str


@dataclass
class Seen:
    """What came from a board, in the order of its coming; times are on the monotonic clock."""

    name: str
    statuses: list[tuple[float, Status]] = field(default_factory=list)
    about: About | None = None
    readings: int = 0
    last: float = 0.0
    topics: set[str] = field(default_factory=set)
    numbers: dict[tuple[str, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    """Boot and topic to the numbers that came."""
    twice: int = 0
    stamps: dict[str, list[Envelope]] = field(default_factory=lambda: defaultdict(list))
    wall: list[float] = field(default_factory=list)
    """Seconds by which time stamps were behind their arrival."""
    malformed: list[str] = field(default_factory=list)
    sent: dict[int, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    gone: list[tuple[float, float]] = field(default_factory=list)
    """When it could not reach the broker, from and until."""

    def take(self, message: Message, now_ns: int) -> None:
        """Take a message into account, whoever sent it."""
        reserved = topics.parse(message.topic)
        if reserved is None:
            self._take_reading(message.topic, message, now_ns)
        elif reserved.kind == "resend":
            self._take_reading(reserved.name, message, now_ns)
        elif reserved.name != self.name:
            return
        elif reserved.kind == "status":
            status = read_status(message.payload)
            if status is not None:
                self.statuses.append((now_ns / 1e9, status))
            elif message.payload:
                self.malformed.append(f"status {message.payload[:60]!r}")
        elif reserved.kind == "about":
            self.about = read_about(self.name, message.payload)
            if self.about is None and message.payload:
                self.malformed.append(f"description {message.payload[:60]!r}")
        elif reserved.kind == "pong":
            self._take_pong(message.payload, now_ns)

    def _take_reading(self, topic: str, message: Message, now_ns: int) -> None:
        try:
            fields, envelope = codecs.decode(message.payload)
            if envelope is not None and envelope.by == self.name and envelope.k is not None:
                list(codecs.unpack(fields, envelope))
        except PayloadError as exc:
            if self._declares(topic):
                self.malformed.append(f"{topic}: {exc}")
            return
        if message.retain or not (envelope.by == self.name if envelope is not None else self._declares(topic)):
            return  # of the past, or somebody else's
        self.topics.add(topic)
        self.last = now_ns / 1e9
        if envelope is None:
            self.readings += 1
            if b'"_ether"' in message.payload:
                self.malformed.append(f"{topic}: the envelope of {message.payload[-80:]!r}")
            return
        numbers = self.numbers[envelope.b, topic]
        new = set(range(envelope.n, envelope.n + (envelope.k or 1))) - numbers
        self.twice += (envelope.k or 1) - len(new)
        self.readings += len(new)
        numbers |= new
        if new:
            self.stamps[envelope.b].append(envelope)
            if isinstance(envelope.t, int | float):
                self.wall.append(time.time() - envelope.t)

    def was_gone(self, at: float) -> bool:
        """Whether it could not reach the broker, or had just come back, or had not been there yet."""
        began = self.statuses[0][0] if self.statuses else 0.0
        return at < began + 1.0 or any(since - 1.0 <= at <= until + GRACE_S for since, until in self.gone)

    def _declares(self, topic: str) -> bool:
        return self.about is not None and topic in self.about.publishes

    def _take_pong(self, payload: bytes, now_ns: int) -> None:
        try:
            content = json.loads(payload)
            identity, ms = content["id"], float(content["ms"])
        except (ValueError, TypeError, KeyError):
            self.malformed.append(f"pong {payload[:60]!r}")
            return
        if (sent := self.sent.pop(identity, None)) is not None:
            self.samples.append(Sample(round(ms * 1e6), sent, now_ns))


def verdicts(seen: Seen, lasted_s: float, cut: bool) -> Iterator[Row]:
    """Yield what is to be said of a board that was watched for so long."""
    rate = seen.readings / lasted_s
    found = f"{seen.readings:,} on {', '.join(sorted(seen.topics))}; {rate:.3g} a second"
    nothing = f"nothing came; is it called {seen.name}, and does it publish what it describes?"
    yield Row("readings", OK if seen.readings else FAILED, found if seen.readings else nothing)
    yield _status(seen)
    yield _heartbeat(seen)
    yield _description(seen)
    yield _numbers(seen)
    yield _time(seen)
    yield from _pings(seen)
    if cut or seen.gone:
        yield from _reconnect(seen, cut)
    else:
        yield Row("reconnect", WARNING, "not seen: use --through, restart the broker, or pull the board's network")
    some = f"{len(seen.malformed)}, such as {seen.malformed[0]}" if seen.malformed else "none"
    yield Row("malformed", FAILED if seen.malformed else OK, some)


def _status(seen: Seen) -> Row:
    if not seen.statuses:
        return Row("status", WARNING, "none: level 0")
    _, last = seen.statuses[-1]
    said = f"{last.state}{f' ({last.detail})' if last.detail else ''}, boot {last.boot or 'not said'}"
    well = last.state in (State.READY, State.SLEEPING) and last.boot
    losses = {key: count for key, count in last.counts.items() if key in ("dropped", "failed", "missed", "rejected")}
    told = "".join(f", {key} {count:g}" for key, count in losses.items())
    return Row("status", FAILED if not well else WARNING if losses else OK, said + told)


def _heartbeat(seen: Seen) -> Row:
    every = next((status.every for _, status in reversed(seen.statuses) if status.every), None)
    if every is None:
        return Row("heartbeat", WARNING, "no promise (`every`): a broker that restarts forgets last wills")
    silences = [
        late - early for (early, _), (late, _) in pairwise(seen.statuses)
        if not any(early <= until and since <= late for since, until in seen.gone)
    ]  # fmt: skip
    longest = max(silences, default=0.0)
    return Row(
        "heartbeat",
        OK if longest <= 3 * every else FAILED,
        f"promised every {every:g} s; at most {longest:.1f} s apart",
    )


def _description(seen: Seen) -> Row:
    about = seen.about
    if about is None:
        return Row("description", WARNING, "none")
    boots = {status.boot for _, status in seen.statuses}
    if boots and about.boot not in boots:
        return Row("description", FAILED, f"boot {about.boot or 'not said'}, while the status says {', '.join(boots)}")
    missing = sorted(seen.topics - about.publishes.keys())
    if missing:
        return Row("description", WARNING, f"without {', '.join(missing)}")
    return Row("description", OK, f"{about.class_name or 'no class'} {about.version}".strip())


def _numbers(seen: Seen) -> Row:
    if not seen.numbers:
        return Row("numbers", WARNING, "none: of losses nothing can be known")
    holes = []
    for (boot, topic), numbers in seen.numbers.items():
        lacking = sorted(set(range(min(numbers), max(numbers))) - numbers)
        if lacking:
            holes.append(f"{len(lacking)} of {topic} (boot {boot}), from {lacking[0]}")
    twice = f"; {seen.twice} came twice, which is no harm" if seen.twice else ""
    return Row("numbers", FAILED if holes else OK, ("missing: " + "; ".join(holes) if holes else "no hole") + twice)


def _time(seen: Seen) -> Row:
    if not seen.stamps:
        return Row("time", WARNING, "none: stamped on arrival")
    for boot, envelopes in seen.stamps.items():
        firsts = [each.ms[0] if isinstance(each.ms, list) else each.ms for each in envelopes]
        known = [ms for ms in firsts if ms is not None]
        if known and len(known) == len(firsts):
            by_number = sorted(zip([each.n for each in envelopes], known, strict=True))
            if len(seen.topics) == 1 and any(late < early for (_, early), (_, late) in pairwise(by_number)):
                return Row("time", FAILED, f"`ms` runs backwards in boot {boot}")
        elif known:
            return Row("time", FAILED, f"some readings of boot {boot} have `ms`, and some not")
    if seen.wall:
        behind = statistics.median(seen.wall)
        return Row("time", OK if abs(behind) < 1.0 else WARNING, f"its own clock, {behind:+.3f} s behind arrival")
    return Row("time", OK, "milliseconds since boot")


def _pings(seen: Seen) -> Iterator[Row]:
    unanswered = [sent for sent in seen.sent.values() if not seen.was_gone(sent / 1e9)]
    asked = len(seen.samples) + len(unanswered)
    if not seen.samples:
        yield Row("ping", WARNING, f"0 of {asked} answered: its clock cannot be known")
        return
    trips = sorted((each.received - each.sent) / 1e6 for each in seen.samples)
    found = f"{len(trips)} of {asked} answered; {statistics.median(trips):.1f} ms, at most {trips[-1]:.1f} ms"
    yield Row("ping", OK if len(unanswered) <= asked / 10 else WARNING, found)
    clock = DeviceClock(seen.samples)
    drift = (1 / clock.rate - 1) * 100
    _, error = clock.host([seen.samples[-1].device])  # type: ignore[arg-type]  # any sequence of numbers will do
    yield Row("clock", OK if abs(drift) < 20 else FAILED, f"{drift:+.2f} % fast, known to {error[0] / 1e6:.1f} ms")


def _reconnect(seen: Seen, cut: bool) -> Iterator[Row]:
    since, until = seen.gone[-1] if seen.gone else (0.0, 0.0)
    if not seen.gone or not until:
        yield Row(
            "reconnect", FAILED, "it never was at the port that is given by --through" if cut else "it stays away"
        )
        return
    wills = [status for at, status in seen.statuses if status.state is State.LOST and at >= since]
    if seen.statuses and cut:
        yield Row("last will", OK if wills else FAILED, "came" if wills else "did not come as its connection was cut")
    back = next((at for at, status in seen.statuses if at > until and status.state is not State.LOST), None)
    answered = any(each.sent / 1e9 > until for each in seen.samples)
    if back is None and seen.last <= until:
        yield Row("reconnect", FAILED, f"it has not come back within {time.monotonic() - until:.0f} s")
        return
    told = f"back after {(back or seen.last) - until:.1f} s"
    before = {status.boot for at, status in seen.statuses if at < since}
    after = {status.boot for at, status in seen.statuses if at > until}
    if before and after - before:
        yield Row("reconnect", FAILED, f"{told}, but it was started again: another boot")
    elif len([each for each in seen.samples if each.sent / 1e9 < since]) and not answered:
        yield Row("reconnect", FAILED, f"{told}, but deaf: it did not subscribe again")
    else:
        yield Row("reconnect", OK, told)


def level(seen: Seen) -> str:
    """Return the level of the contract that a board keeps to, as far as it shows."""
    if not seen.statuses or seen.about is None:
        return "0 (a bare number)" if seen.readings else "none"
    if not seen.numbers or not seen.samples:
        return "1 (status and will)"
    return "3 (nothing lost)" if seen.about.outbox else "2 (numbers and time)"


class Relay:
    """Passes connections on to a broker, until it is cut."""

    def __init__(self, port: int, broker: tuple[str, int]) -> None:
        self.port, self._broker = port, broker
        self._sockets: list[socket.socket] = []
        self.used = False
        self._listen()

    def _listen(self) -> None:
        self._listener = socket.create_server(("", self.port))
        self.port = self._listener.getsockname()[1]  # the same again, where any one will do
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                board, _ = listener.accept()
                broker = socket.create_connection(self._broker, 5.0)
            except OSError:
                return  # cut
            self.used = True
            broker.settimeout(None)
            self._sockets += [board, broker]
            for one, other in ((board, broker), (broker, board)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def cut(self) -> None:
        """Close the port and what goes through it."""
        for each in (self._listener, *self._sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # gone already
            each.close()
        self._sockets.clear()

    def mend(self) -> None:
        self._listen()


def _pump(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65_536):
            other.sendall(data)
    except OSError:
        pass  # cut
    for each in (one, other):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other direction was faster


def watch(name: str, connection: Connection, span_s: float, relay: Relay | None, cut_s: float = CUT_S) -> Seen:
    """Watch a board for so long; with a relay, cut its connection half-way."""
    seen = Seen(name)
    connection.on_message = lambda message, receipt: seen.take(message, time.monotonic_ns())
    down: list[float] = []
    connection.on_down = lambda reason: down.append(time.monotonic())
    connection.on_up = lambda present: seen.gone.append((down.pop(), time.monotonic())) if down else None
    connection.subscribe(["#"])
    connection.open()
    begun = time.monotonic()
    cut_at = begun + span_s / 2 if relay is not None else None
    for number in range(1, 1 << 30):
        now = time.monotonic()
        if now >= begun + span_s:
            return seen
        if relay is not None and cut_at is not None and now >= cut_at:
            cut_at = None
            relay.cut()
            time.sleep(cut_s)
            relay.mend()
            if relay.used:
                seen.gone.append((now, time.monotonic()))
        seen.sent[number] = time.monotonic_ns()
        connection.publish(topics.command(name, "ping"), codecs.encode({"id": number}), 0)
        time.sleep(max(0.0, min(PING_S, begun + span_s - time.monotonic())))
    raise AssertionError("a board is not watched for years")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="of the board")
    parser.add_argument("--broker", required=True, metavar="URL", help="mqtt://user:password@host:port")
    parser.add_argument("--for", dest="span", default="60s", metavar="DURATION", help="how long to watch; default 60s")
    parser.add_argument("--through", type=int, metavar="PORT", help="the board connects to this port of ours instead")
    parser.add_argument("--namespace", default="", help="before every topic")
    parser.add_argument("--ca", metavar="PEM", help="authority to trust, for mqtts")
    given = parser.parse_args(arguments)
    try:
        span_s = duration(given.span)
        tls = Tls(given.ca) if given.ca else None
        client_id = f"check-{secrets.token_hex(4)}"
        connection = Connection(given.broker, client_id, namespace=given.namespace, tls=tls)
        relay = None if given.through is None else Relay(given.through, Address.parse(given.broker).nodes[0])
        print(f"watching {given.name} for {span_s:g} s", file=sys.stderr)
        seen = watch(given.name, connection, span_s, relay, min(CUT_S, span_s / 4))
    except (EtherError, ValueError, OSError) as exc:
        print(f"check_board: {exc}", file=sys.stderr)
        return 1
    rows: list[Any] = list(verdicts(seen, span_s, relay is not None))
    connection.close()
    output.table(["CHECK", "", "FOUND"], rows)
    output.line(f"level {level(seen)}")
    return 1 if any(row.verdict == FAILED for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
