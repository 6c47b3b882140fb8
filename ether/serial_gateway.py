"""Serial: a board without a network as an instance. Its lines are readings; what it subscribes to goes back as lines.

The only file that imports pyserial, and only once a port is opened. A session's YAML names `SerialBoard` as any other
class; `ether serial` runs one beside whatever session there is (`serve`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ether import clock, codecs, topics
from ether.component import Component
from ether.decorators import ether_init, ether_shutdown, ether_start
from ether.errors import PayloadError, PortError, suggest
from ether.instance import Instance
from ether.member import Member
from ether.model import Reading, State
from ether.outbox import Sender
from ether.serial_line import LONGEST, NO_TEXT, WORD, Description, Line, Lines, read_line, write_line
from ether.topics import check_filter, check_topic

if TYPE_CHECKING:
    from serial import Serial

    from ether.guest import Guest

__all__ = ["SerialBoard", "ports", "serve"]

logger = logging.getLogger(__name__)

_BEAT_S = 0.2
_AGAIN_S = 0.25
_WRITE_S = 2.0
_SETTLES_S = 3.0
"""A board that is reset as its port is opened has described itself by then."""
_OURS = ("start", "stop", "ping")
"""Commands that are for the gateway itself."""
_NOTHING: Mapping[str, Any] = {}


class SerialBoard:
    """A board on a serial port, as an instance of its name.

    A value alone, or an object, is published on the instance's name; `temp 23.4` on ``<name>/temp``; a channel with a
    "/" is the topic itself.

    Args:
        port: ``/dev/ttyACM0``, ``COM3``, ``socket://127.0.0.1:4000``, ``rfc2217://host:port``.
        baud: bits a second, as the board has it.
        topics: channel to the topic that it has instead.
        units: ``channel`` or ``channel.field`` to the unit, where the board does not say it (``.field`` for a line
            without a channel).
        subscribes: further channels whose messages go to the board.

    Raises:
        TopicError: of `topics` or `subscribes`.
    """

    def __init__(
        self, port: str, baud: int = 115_200, topics: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None, subscribes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.port = port
        self.baud = baud
        self._topics = _checked(topics or {})
        self._units = dict(units or {})
        self._subscribes = dict.fromkeys(map(check_filter, subscribes), _NOTHING)
        self._instance: Instance
        self._serial: Serial | None = None
        self._reader: threading.Thread | None = None
        self._closing = threading.Event()
        self._started = False
        self._description: Description | None = None
        self._asked = False
        self._asked_at = 0.0
        self._lines = Lines()
        self._first = True
        self._checked = False
        self._complained = False
        self._unsent = False

    def __ether_adopted__(self, instance: Instance) -> None:
        self._instance = instance
        instance.on_command = self._command

    # --- life

    @ether_init
    def open(self) -> None:
        """Open the port, be it later: the status says `lost` until then, and why."""
        self._closing.clear()
        self._started = False
        self._declare(Description())
        try:
            self._connect()
        except PortError as exc:
            self._instance.rest(State.LOST, str(exc))
        self._reader = threading.Thread(target=self._live, name=f"serial {self._name}", daemon=True)
        self._reader.start()

    @ether_start
    def start(self) -> None:
        """Publish from now on what comes."""
        self._started = True

    @ether_shutdown
    def close(self) -> None:
        """Let go of the port."""
        self._closing.set()
        if self._reader is not None:
            self._reader.join()

    # --- to the board, in the instance's thread

    def send(self, reading: Reading) -> None:
        """Write a message as a line."""
        fields: Any = reading.fields
        value = fields["value"] if fields.keys() == {"value"} else fields or None
        self._write(self._channel(reading.topic), value)

    def _command(self, verb: str, payload: bytes) -> bool:
        """Pass a command on to the board; True if that was all."""
        if verb in _OURS:
            return False
        fields: Any = {}
        with contextlib.suppress(PayloadError):
            fields = codecs.decode(payload)[0]
        if isinstance(fields.get("topic"), str):
            fields["topic"] = self._channel(fields["topic"])
        self._instance.later(self._write, f"{WORD} {verb}", fields or ...)
        return verb != "restart"

    def _write(self, channel: str, value: Any) -> None:
        port = self._serial
        try:
            line = write_line(channel, value, self._checked)
            if port is None:
                raise PortError(f"{self.port} is not there")
            port.write(line)
        except (OSError, PayloadError) as exc:  # pyserial's errors are of the first kind
            self._instance.member.counts["unsent"] += 1
            if not self._unsent:
                self._unsent = True
                logger.warning("%s: a line on %r was not sent to the board: %s", self._name, channel, exc)
        else:
            self._unsent = False

    # --- from the board, in a thread of its own

    def _live(self) -> None:
        """Read the port, and open it again whenever it has gone, until told to close."""
        try:
            while not self._closing.is_set():
                if self._serial is None and not self._again():
                    self._closing.wait(_AGAIN_S)
                    continue
                try:
                    self._read()
                except OSError as exc:
                    logger.debug("%s: %s", self._name, exc)
                    self._lost(f"{self.port} is gone (unplugged?); it is opened again once it is there")
                finally:
                    self._disconnect()
        except Exception as exc:  # the edge of a thread
            logger.debug("%s: cannot read on", self._name, exc_info=True)
            self._lost(f"cannot read on: {type(exc).__name__}: {exc}")

    def _read(self) -> None:
        port = self._serial
        assert port is not None
        while not self._closing.is_set():
            self._take(port.read(max(1, min(port.in_waiting, LONGEST))))

    def _take(self, piece: bytes) -> None:
        lines, too_long = self._lines.take(piece)
        for line in lines:
            self._take_line(line)
        for _ in range(too_long):
            self._reject(f"longer than {LONGEST} bytes", b"")

    def _take_line(self, line: bytes) -> None:
        first, self._first = self._first, False
        try:
            said = read_line(line)
            if said is None or (first and not said.whole):
                return  # of the first line after opening the begin may be missing
            if self._checked and not said.checked:
                raise PayloadError("without a checksum, which the lines before it had")
            self._checked = said.checked
            if said.description is not None:
                self._describe(said.description)
            elif said.remark is not None:
                logger.info("%s: %s", self._name, said.remark)
            elif self._started:
                self._publish(said)
        except PayloadError as exc:
            if not first:
                self._reject(str(exc), line)

    def _publish(self, said: Line) -> None:
        topic = self._topic(said.channel)
        declared = self._description.publishes if self._description is not None else {}
        if declared and said.channel not in declared:
            raise PayloadError(f"channel {said.channel!r} is not in the board's description")
        self._instance.publish(topic, said.value)
        publishes = self._instance.about.publishes
        if topic not in publishes:
            self._instance.describe(publishes={**publishes, topic: {"fields": {}}})

    def _reject(self, why: str, line: bytes) -> None:
        """Count a line that says nothing; the first one is worth a line in the log."""
        self._instance.member.counts["rejected"] += 1
        if not self._complained:
            self._complained = True
            advice = f"; is it at {self.baud} baud?" if why == NO_TEXT else ""
            logger.warning(
                "%s: a line from %s was rejected: %s%s: %r; further ones are only counted", self._name, self.port, why,
                advice, line[:80],
            )  # fmt: skip

    def _describe(self, description: Description) -> None:
        """Take on what the board says of itself. Said unasked, or with another boot, it means that it has started."""
        known = self._description
        again = not self._asked and clock.monotonic() - self._asked_at > _SETTLES_S
        if known is not None and known.boot and description.boot:
            again = known.boot != description.boot
        self._asked = False
        if known is not None and again:
            self._instance.member.counts["reboots"] += 1
            logger.warning("%s: the board has started again", self._name)
        self._description = description
        self._declare(description)  # though it be known: a board that has just started wants what is retained

    def _declare(self, description: Description) -> None:
        """Tell everybody what the board publishes, and subscribe to what it wants."""
        instance = self._instance
        publishes = {self._topic(channel): dict(entry) for channel, entry in description.publishes.items()}
        for name, unit in self._units.items():
            channel, _, field = name.partition(".")
            entry = publishes.setdefault(self._topic(channel), {})
            fields = {key: dict(each) for key, each in entry.get("fields", {}).items()}
            fields.setdefault(field or "value", {}).setdefault("unit", unit)
            entry["fields"] = fields
        for entry in publishes.values():
            entry.setdefault("fields", {})
        wanted = {**self._subscribes, **description.subscribes}
        facts = {"class_name": description.class_name, "version": description.version}
        instance.describe(publishes=publishes, **{key: fact for key, fact in facts.items() if fact})
        if wanted:
            instance.listen(
                "send", {self._topic(channel): entry.get("fields", {}) for channel, entry in wanted.items()}
            )

    # --- the port

    @property
    def _name(self) -> str:
        return self._instance.name

    def _topic(self, channel: str) -> str:
        known = self._topics.get(channel)
        if known is not None:
            return known
        if not channel:
            return self._name
        return channel if len(topics.levels(channel)) > 1 else topics.join(self._name, channel)

    def _channel(self, topic: str) -> str:
        """Return the channel of a topic, as the board calls it."""
        for channel, known in self._topics.items():
            if known == topic:
                return channel
        below = topics.strip(self._name, topic)
        return below if self._topic(below) == topic else topic

    def _lost(self, why: str) -> None:
        logger.warning("%s: %s", self._name, why)
        self._instance.rest(State.LOST, why)

    def _again(self) -> bool:
        """Open the port if it is there; False where it is not."""
        try:
            self._connect()
        except PortError as exc:
            logger.debug("%s: %s", self._name, exc)
            return False
        logger.warning("%s: %s is there again", self._name, self.port)
        if self._description is None:
            self._declare(Description())
        return True

    def _connect(self) -> None:
        self._serial = _open(self.port, self.baud)
        self._lines = Lines()
        self._first, self._checked, self._complained, self._unsent = True, False, False, False
        self._asked, self._asked_at = True, clock.monotonic()
        self._write("", ...)  # ends what the board may have read of a line so far
        self._write(WORD, ...)
        self._instance.rest(State.READY)

    def _disconnect(self) -> None:
        port, self._serial = self._serial, None
        if port is not None:
            with contextlib.suppress(OSError):
                port.close()


def _checked(topics: Mapping[str, str]) -> dict[str, str]:
    return {channel: check_topic(topic) for channel, topic in topics.items()}


# --- the port


def ports() -> dict[str, str]:
    """Return the serial ports of this machine, and what is said to be there."""
    _pyserial()
    from serial.tools import list_ports

    return {found.device: "" if found.description == "n/a" else found.description for found in list_ports.comports()}


def _pyserial() -> Any:
    try:
        import serial
    except ImportError:
        raise PortError("pyserial is missing: pip install 'ether[serial]'") from None
    return serial


def _open(port: str, baud: int) -> Serial:
    """Open a port; PortError says what is wrong, and the way out."""
    serial = _pyserial()
    write_s = None if port.lower().startswith("rfc2217:") else _WRITE_S  # pyserial has no limit there
    try:
        if port.lower().startswith(("socket:", "rfc2217:")) and urlsplit(port).port is None:
            raise ValueError("no port in it")  # pyserial would compare None with numbers
        return serial.serial_for_url(  # type: ignore[no-any-return]  # pyserial has no types of its own
            port, baudrate=baud, timeout=_BEAT_S, write_timeout=write_s, exclusive=True
        )
    except (OSError, ValueError) as exc:
        raise PortError(_way_out(port, baud, exc)) from exc


def _way_out(port: str, baud: int, exc: Exception) -> str:
    number = getattr(exc, "errno", None)
    if "://" in port:
        return f"{port}: {exc}; write socket://HOST:PORT or rfc2217://HOST:PORT of what listens there"
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        found = ports()
        there = ", ".join(f"{name} ({said})" if said else name for name, said in found.items())
        way_out = f"there are: {there}" if there else "there is none: plug the board in; some cables only charge"
        return f"no port {port}; {way_out}{suggest(port, found)}"
    if number in (errno.EAGAIN, errno.EBUSY):
        return f"{port} is in use by another program; end that (a serial monitor?)"
    if number in (errno.EACCES, errno.EPERM):
        return f"{port}: not allowed; `sudo usermod -aG dialout $USER`, and log in again"
    return f"{port} at {baud} baud: {exc}"


# --- beside a session


def serve(
    board: SerialBoard, name: str, guest: Guest, outbox: Path | None, stop: threading.Event, ready: Callable[[], None]
) -> Mapping[str, int]:
    """Run a board as an instance of its own at the broker of `guest`, until `stop` is set or it is told to stop.

    Args:
        board: not open yet.
        name: unique at the broker.
        guest: a connection to that broker, open.
        outbox: folder for what a recorder has not confirmed; None for that of the session's recording.
        stop: set from elsewhere.
        ready: called once it runs.

    Returns:
        What its status counted: ``published``, ``rejected`` …

    Raises:
        PortError: the port cannot be opened.
        SessionError: the name is taken.
    """
    guest.check_free(name)
    while True:
        member, instance = _instance(board, name, guest, outbox)
        if not instance.init() or member.state is State.LOST:
            board.close()
            instance.release()
            member.close(clear=True)
            raise PortError(member.detail)
        instance.start()
        instance.later(ready)
        threading.Thread(target=_stop_with, args=(instance, stop), name="stop", daemon=True).start()
        instance.run()
        instance.close()
        if member.publisher.outbox is not None:
            with contextlib.suppress(OSError):  # unless something in it waits to be recorded
                member.publisher.outbox.folder.parent.rmdir()
        if not instance.restart_asked:
            return dict(member.counts)


def _instance(board: SerialBoard, name: str, guest: Guest, outbox: Path | None) -> tuple[Member, Instance]:
    member = Member(guest.url, name, namespace=guest.namespace, tls=guest.tls)
    if outbox is not None:
        member.publisher.outbox = Sender(member.connection, name, member.boot, outbox / name, counts=member.counts)
    else:
        member.publisher.keep_by(guest.outbox_orders(name))
    instance = Instance(Component.of(SerialBoard), board, member, kwargs={"port": board.port, "baud": board.baud})
    member.open()
    member.log_to_topic()
    instance.open()
    if member.publisher.outbox is not None:
        member.publisher.outbox.begin()  # what is published is not known yet
    return member, instance


def _stop_with(instance: Instance, stop: threading.Event) -> None:
    stop.wait()
    instance.stop()
