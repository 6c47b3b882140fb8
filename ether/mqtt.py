"""Connection: the only file that imports paho.

paho is used through its public interface, plus the private members named in `_Client`; hence the narrow pin in
`pyproject.toml`. They buy reads of many packets a system call (paho: three calls a packet), one write per packet
straight from the publishing thread (paho: wake the network thread through a socket pair first) and an in-flight window
that does not slow down as it grows (paho scans it at every acknowledgement).
"""

from __future__ import annotations

import logging
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from ether import clock, topics
from ether.address import Address
from ether.errors import BrokerError, PayloadError, TopicError
from ether.model import Message

__all__ = ["HELD", "BrokerLimits", "Connection", "Driven", "Receipt", "Tls"]

logger = logging.getLogger(__name__)

_KEEPALIVE_S = 15
_WINDOW = 500  # unacknowledged publishes; far below 65,535, where packet ids would wrap into each other
_WINDOW_QOS_2 = 10  # Mosquitto as it is delivered silently drops QoS 2 messages beyond 20 in flight
_BACKOFF_S = (0.1, 1.5)
"""First and longest wait before another attempt: a broker that comes back has everybody back within two seconds."""
_ASK_AGAIN_S = (0.5, 30.0)
_LOOP_S = 2.5
"""So often the network thread looks whether a ping is due; everything else wakes it."""
_READ_AHEAD = 64 * 1024
"""Of more, the C library asks the kernel for memory at each read."""
_LITTLE = 4096
_WRITE_TOGETHER = 64 * 1024
_DIRECT = 4  # with more than so many messages in flight it is a burst, and joining beats writing at once
_LONGEST_TOPIC = 65_535
_PUBLISH, _DUP, _PUBACK, _DISCONNECT = 0x30, 0x08, 0x40, 0xE0
HELD = object()
"""What `Connection.on_message` returns of a QoS 1 message that its owner acknowledges later; then later ones, too."""


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What a broker takes of a client. Most end the connection for more, and again when it is sent again."""

    largest_message: int = 268_435_455 - 4
    """Bytes of topic and payload together; as delivered what MQTT carries."""
    spaces: bool = True
    """Whether topics may have spaces."""
    receive_maximum: int = 20
    """So many QoS 1 messages it sends before the first is acknowledged; Mosquitto's as delivered, few have less."""

    @classmethod
    def read(cls, content: Any) -> BrokerLimits:
        """Return what a session says of its broker; what holds for any where it says nothing that can be read."""
        try:
            found = cls(**content)
        except TypeError:
            return cls()
        sound = all(type(getattr(found, each.name)) is type(each.default) for each in fields(cls))
        return found if sound else cls()


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the broker, and to be trusted by it. Paths of PEM files."""

    ca: str | None = None
    """Certificate authority; None trusts the system's."""
    cert: str | None = None
    key: str | None = None
    insecure: bool = False
    """Do not compare the host name with the certificate."""


class Receipt(NamedTuple):
    """What acknowledges one received message, within the connection it came on."""

    packet_id: int
    qos: int
    generation: int


def _packet(head: int, body: bytes, payload: bytes) -> bytes:
    """Return an MQTT packet: first byte, remaining length, variable header, payload."""
    left = len(body) + len(payload)
    size = bytearray()
    while True:
        left, digit = left >> 7, left & 0x7F
        size.append(digit | 0x80 if left else digit)
        if not left:
            return b"".join((bytes([head]), size, body, payload))


def _trust(address: Address, tls: Tls) -> ssl.SSLContext:
    for path in (tls.ca, tls.cert, tls.key):
        if path and not Path(path).is_file():
            raise BrokerError(f"tls of {address}: {path}: no such file")
    wrong = f"{tls.ca}: no certificate of an authority, in PEM"
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        wrong = f"{tls.cert} and {tls.key or 'no key'}: not a certificate and its key, in PEM"
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as exc:  # those of TLS are of this kind
        raise BrokerError(f"tls of {address}: {wrong}: {exc.strerror or exc}") from exc
    context.check_hostname = not tls.insecure
    return context


def _ended(reason: Any, address: Address, answered: bool) -> str:
    """Return why a connection is over, for what paho calls an unspecified error: the other side has closed it."""
    if str(reason) != "Unspecified error":
        return str(reason)
    if answered:
        return "it was closed"
    wanted = "does it demand a certificate, broker.tls.cert" if address.secure else "is it a port for TLS, mqtts://"
    return f"it was closed without an answer; {wanted}, or has it too many clients?"


class _ReadAhead:
    """A socket that reads in large pieces, so that paho's three reads a packet cost no system calls.

    Through TLS a read brings one record, and most brokers send each packet in one of its own: all that have come are
    read. And Python's TLS is not made for a thread that reads while another writes, so one waits for the other.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tls = threading.Lock() if isinstance(sock, ssl.SSLSocket) else None
        self._buffer = b""
        self._position = 0
        self.last = 0
        """Bytes of the last read."""

    def recv(self, size: int) -> bytes:
        if self._position >= len(self._buffer):
            if size >= _READ_AHEAD:
                return self._read(size)
            self._buffer = self._read(_READ_AHEAD)
            self.last = len(self._buffer)
            self._position = 0
        piece = self._buffer[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def send(self, data: bytes) -> int:
        if self._tls is None:
            return self._sock.send(data)
        with self._tls:
            return self._sock.send(data)

    def _read(self, size: int) -> bytes:
        if self._tls is None:
            return self._sock.recv(size)
        records: list[bytes] = []
        with self._tls:
            try:
                while size > 0 and (record := self._sock.recv(size)):
                    records.append(record)
                    size -= len(record)
            except OSError:  # nothing more has come; what is worse is met again by the next read
                if not records:
                    raise
        return b"".join(records)

    def pending(self) -> int:
        inner = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return len(self._buffer) - self._position + inner

    def publish(self) -> tuple[int, bytes] | None:
        """Return first byte and content of a PUBLISH of QoS 0 or 1, if that is what comes next and it is here whole."""
        buffer, start, end = self._buffer, self._position, len(self._buffer)
        if start >= end or buffer[start] & 0xF4 != _PUBLISH:
            return None
        length, shift, place = 0, 0, start + 1
        while place < end and shift < 28:
            digit = buffer[place]
            place += 1
            length |= (digit & 0x7F) << shift
            if digit < 0x80:
                break
            shift += 7
        else:
            return None
        if place + length > end:
            return None
        self._position = place + length
        return buffer[start], buffer[place : self._position]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Client(Client):
    """paho's client with read-ahead, direct writes and a hook where an acknowledgement has come.

    Private members of paho 2.2 used: `_create_socket`, `_loop`, `_packet_queue`, `_packet_write`, `_handle_publish`,
    `_handle_pubackcomp`, `_send_puback`, `_mid_generate`, `_in_packet`, `_out_packet`, `_out_messages`,
    `_manual_ack`, `_reset_sockets`, `_sockpairR`, `_sockpairW` and `_thread`.
    """

    held = False
    network: threading.Thread | None = None
    dial: Callable[[], Any] | None = None
    """Returns a socket that is connected; None has paho do it."""
    direct: float = _DIRECT

    def __init__(self, deliver: Callable[[str, bytes, int, bool, bool, int], object], **options: Any) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, **options)
        self.writing = threading.RLock()
        self.acknowledged = threading.Condition()
        """Notified, while somebody waits, when a message has been acknowledged."""
        self.waiting = 0
        self._deliver = deliver
        self._sending = threading.RLock()
        self._up = False
        self._in_flight: dict[int, bytes] = {}

    @property
    def unacknowledged(self) -> int:
        return len(self._in_flight) + len(self._out_messages)

    def send(self, topic: bytes, payload: bytes, qos: int, retain: bool) -> bool:
        """Send one message of QoS 0 or 1; False for one of QoS 0 that has no connection to go on.

        QoS 1 is ours, not paho's: it is kept until acknowledged, once per connection on its way, and sent again, in
        order and marked as a duplicate, after a reconnect.
        """
        body = len(topic).to_bytes(2, "big") + topic
        with self._sending:
            if not qos:
                if self._up:
                    self._packet_queue(_PUBLISH, _packet(_PUBLISH | retain, body, payload), 0, 1)
                return self._up
            packet_id = self._mid_generate()
            while packet_id in self._in_flight:
                packet_id = self._mid_generate()
            packet = _packet(_PUBLISH | 2 | retain, body + packet_id.to_bytes(2, "big"), payload)
            self._in_flight[packet_id] = packet
            if self._up:
                self._packet_queue(_PUBLISH, packet, packet_id, 1)
            return True

    def acknowledge(self, receipts: Iterable[Receipt]) -> None:
        """Acknowledge messages, in one write."""
        with self.writing:
            self.held = True
            try:
                ids = [receipt.packet_id for receipt in receipts if receipt.qos == 1]
                if ids:
                    self._packet_queue(_PUBACK, b"".join([b"\x40\x02" + each.to_bytes(2, "big") for each in ids]), 0, 1)
                for receipt in receipts:
                    if receipt.qos == 2:
                        self.ack(receipt.packet_id, 2)
            finally:
                self.held = False
            self.write_now()

    def resume(self) -> None:
        """A connection stands: send again what the last one left unacknowledged."""
        with self._sending:
            self._up = True
            for packet_id, packet in self._in_flight.items():
                self._packet_queue(_PUBLISH, bytes([packet[0] | _DUP]) + packet[1:], packet_id, 1)

    def suspend(self) -> None:
        """The connection has ended: keep what is sent from now on."""
        with self._sending:
            self._up = False

    @property
    def unwritten(self) -> int:
        return len(self._out_packet)

    def _create_socket(self) -> Any:
        return _ReadAhead(self.dial() if self.dial is not None else super()._create_socket())  # type: ignore[arg-type]  # paho's SocketLike is a socket here

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """Wait for something to do, and do it, as paho does by select, which takes no file number above 1,023."""
        sock, wakeup = self._sock, self._sockpairR
        if sock is None or wakeup is None or not hasattr(select, "poll"):  # Windows has no poll, nor that limit
            return super()._loop(timeout)
        pending = sock.pending() > 0  # type: ignore[attr-defined]  # it is a _ReadAhead
        poll = select.poll()
        try:
            poll.register(wakeup, select.POLLIN)
            poll.register(sock, select.POLLIN | (select.POLLOUT if self.want_write() else 0))
            ready = dict(poll.poll(0 if pending else timeout * 1000))
            woken, found = wakeup.fileno() in ready, ready.get(sock.fileno(), 0)
        except (OSError, ValueError):
            return super()._loop(0)  # the socket was closed meanwhile: paho knows what that means
        if pending or found & ~select.POLLOUT:
            rc = self.loop_read()
            if rc or self._sock is None:
                return rc
        if woken:
            try:
                wakeup.recv(_READ_AHEAD)
            except BlockingIOError:
                pass
        if woken or found & select.POLLOUT:
            rc = self.loop_write()
            if rc or self._sock is None:
                return rc
        return self.loop_misc()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        rc = super().loop_read(max_packets)
        while rc == 0 and self._sock is not None and self._sock.pending():  # type: ignore[attr-defined]  # it is a _ReadAhead
            if not self._in_packet["command"]:
                # What is here whole goes past paho, which takes a packet in three steps. It need not hear of it, only
                # that the broker lives, which the answer to a ping says, too.
                while self._sock is not None and (found := self._sock.publish()) is not None:  # type: ignore[attr-defined]
                    self._take_publish(*found)
                if self._sock is None or not self._sock.pending():  # type: ignore[attr-defined]
                    break
            rc = super().loop_read(max_packets)
        if rc == 0 and self._out_packet and self._sock is not None:
            self._packet_write()  # the acknowledgements of all that was read, together
        return rc

    def read_little(self) -> bool:
        """Return whether something was read since the last call, and not much."""
        if self._sock is None:
            return False
        came: int = self._sock.last  # type: ignore[attr-defined]  # it is a _ReadAhead
        self._sock.last = 0  # type: ignore[attr-defined]
        return 0 < came < _LITTLE

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:
        if command & 0xF0 == _DISCONNECT:
            try:
                return super()._packet_queue(command, packet, mid, qos, info)
            except OSError:  # the network thread has sent it already, and is gone with its socket pair
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        idle = not self._out_packet
        self._out_packet.append(
            {
                "command": command, "mid": mid, "qos": qos, "pos": 0,
                "to_process": len(packet), "packet": packet, "info": info,
            }
        )  # fmt: skip
        if self.held or threading.current_thread() is self.network:
            pass  # written by whoever holds, or at the end of the network thread's round
        elif len(self._in_flight) <= self.direct:
            self.write_now()
        elif idle:  # a burst: the network thread joins packets into few writes
            self.wake()
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def write_now(self) -> None:
        """Write what is queued from this thread; what the socket does not take is the network thread's to send."""
        self._packet_write()  # an error here is met again, and handled, by the network thread's read
        if self._out_packet:
            self.wake()

    def wake(self) -> None:
        if self._sockpairW is not None:
            try:
                self._sockpairW.send(b"\0")
            except (BlockingIOError, OSError):
                pass  # full: the network thread has been woken already; closed: it is gone

    def _join_packets(self) -> None:
        """Make one packet of all that wait, so that they cost one system call."""
        joined, size = [], 0
        while self._out_packet and size < _WRITE_TOGETHER:
            packet = self._out_packet.popleft()
            if packet["pos"] or packet["command"] & 0xF0 == _DISCONNECT:
                self._out_packet.appendleft(packet)
                break
            if packet["info"] is not None and packet["qos"] == 0:
                packet["info"]._set_as_published()  # noqa: SLF001 - as paho does once it has written a QoS 0 message
            joined.append(packet["packet"])
            size += len(packet["packet"])
        if joined:
            whole = b"".join(joined)
            self._out_packet.appendleft(
                {"command": 0, "mid": 0, "qos": 1, "pos": 0, "to_process": len(whole), "packet": whole, "info": None}
            )

    def close_wakeup(self) -> None:
        """Close the socket pair that wakes the network thread; paho leaves that to the garbage collector."""
        self._reset_sockets()

    def _packet_write(self) -> MQTTErrorCode:
        with self.writing:
            rc = MQTTErrorCode.MQTT_ERR_SUCCESS
            while self._out_packet and rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if len(self._out_packet) > 1:
                    self._join_packets()
                waiting = len(self._out_packet)
                rc = super()._packet_write()
                if len(self._out_packet) >= waiting:
                    break  # the socket takes no more now
            return rc

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        rc = MQTTErrorCode.MQTT_ERR_SUCCESS
        if self._in_flight.pop(int.from_bytes(self._in_packet["packet"][:2], "big"), None) is None:
            rc = super()._handle_pubackcomp(cmd)
        if self.waiting:
            with self.acknowledged:
                self.acknowledged.notify_all()
        return rc

    def _handle_publish(self) -> MQTTErrorCode:
        """Deliver QoS 0 and 1 without paho's detours; QoS 2 is paho's."""
        head = self._in_packet["command"]
        if head & 4:
            return super()._handle_publish()
        return self._take_publish(head, bytes(self._in_packet["packet"]))

    def _take_publish(self, head: int, content: bytes) -> MQTTErrorCode:
        qos = head >> 1 & 3
        end = 2 + int.from_bytes(content[:2], "big")
        packet_id = int.from_bytes(content[end : end + 2], "big") if qos else 0
        try:
            topic = content[2:end].decode()
        except UnicodeDecodeError:
            logger.warning("a message on a topic that is no UTF-8 was dropped: %r", content[2:end])
        else:
            answer = self._deliver(
                topic, content[end + 2 :] if qos else content[end:], qos, bool(head & 1), bool(head & _DUP), packet_id
            )
            if self._manual_ack or answer is HELD:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
        return self._send_puback(packet_id) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS


class Connection:
    """One MQTT 3.1.1 connection with a network thread of its own; it comes back by itself.

    Set the callbacks before `open`. They run in the network thread, must not block, and an exception in one is logged
    with its traceback, never swallowed. Topics are without the namespace on both sides.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        namespace: str = "",
        will: tuple[str, bytes] | None = None,
        retain_will: bool = True,
        persistent: bool = False,
        manual_ack: bool = False,
        tls: Tls | None = None,
    ) -> None:
        """Prepare a connection; nothing is sent before `open`.

        Args:
            url: ``mqtt://user:password@host:port``, or ``mqtts://``; of a cluster, with ``host:port,host:port``. The
                first node that answers is used, and when it is lost, the next.
            client_id: unique on the broker; a second client of the same id throws out the first.
            namespace: put before every topic.
            will: topic and payload the broker publishes when we are lost.
            retain_will: whether it keeps them for those who look later.
            persistent: the broker keeps subscriptions and QoS 1 messages while we are away.
            manual_ack: the owner calls `acknowledge`; otherwise a message is acknowledged after `on_message`, unless
                that returns `HELD` of one of QoS 1.
            tls: needed only for other than the system's trust; ``mqtts`` alone switches TLS on.
        """
        self.address = Address.parse(url)
        self.url = url
        self.tls = tls
        self.client_id = client_id
        self.namespace = namespace
        self.on_message: Callable[[Message, Receipt | None], object] = lambda message, receipt: None
        self.on_up: Callable[[bool], None] = lambda session_present: None
        self.on_down: Callable[[str], None] = lambda reason: None
        self.manual_ack = manual_ack
        self.limits = BrokerLimits()
        """What is known of the broker."""
        self.gather_s = 0.0
        """After a read that brought little we wait so long, lest each message of many topics wake us by itself."""
        self._node = 0
        """Which of the address's nodes is ours."""
        self._generation = 0
        self._open: set[int] = set()
        """Packet ids of what has come over this connection and is not acknowledged."""
        self._filters: dict[str, int] = {}
        self._granted: dict[int, threading.Event] = {}
        self._asked: dict[int, list[str]] = {}
        """By packet id: the filters of a SUBSCRIBE that has no answer yet."""
        self._granting = threading.Lock()
        self._refused: dict[str, None] = {}
        """Filters that the broker has refused; it is asked again for them."""
        self._ask_again_at = 0.0
        self._ask_again_s = _ASK_AGAIN_S[0]
        self._up = threading.Event()
        self._closing = threading.Event()
        self._refusal: str | None = None
        self._trouble = "no answer"
        self._thread: threading.Thread | None = None
        self._client = self._make_client(persistent, tls)
        if will is not None:
            self._client.will_set(topics.join(namespace, will[0]), will[1], qos=1, retain=retain_will)

    def _make_client(self, persistent: bool, tls: Tls | None) -> _Client:
        client = _Client(
            self._delivered,
            client_id=self.client_id,
            clean_session=not persistent,
            protocol=MQTTProtocolVersion.MQTTv311,
            manual_ack=self.manual_ack,
        )
        client.max_inflight_messages_set(0)  # the window is ours: see `publish`
        client.max_queued_messages_set(0)
        client.connect_timeout = 5.0
        client.on_connect = self._guarded(self._connected)
        client.on_disconnect = self._guarded(self._disconnected)
        client.on_message = self._guarded(self._received)  # QoS 2 only
        client.on_subscribe = self._guarded(self._subscribed)
        client.on_unsubscribe = self._guarded(self._unsubscribed)
        client.on_socket_open = lambda _client, _userdata, sock: _no_delay(sock)
        if self.address.user is not None:
            client.username_pw_set(self.address.user, self.address.password)
        if self.address.secure or tls is not None:
            client.tls_set_context(_trust(self.address, tls or Tls()))
        return client

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def _at(self) -> str:
        return self.address.of_node(self._node)

    @property
    def in_network_thread(self) -> bool:
        """Whether the caller runs in the thread that reads for us, which must not wait for what it reads."""
        return threading.current_thread() is self._thread

    @property
    def unacknowledged(self) -> int:
        """QoS 1 messages the broker has not confirmed yet."""
        return self._client.unacknowledged

    def open(self, timeout: float = 10.0) -> None:
        """Connect, or raise BrokerError: at once where the broker refuses us, after `timeout` seconds otherwise."""
        self._begin()
        clock.wait(
            lambda: self._up.is_set() or self._refusal is not None, lambda left: self._up.wait(min(left, 0.05)), timeout
        )
        if self._up.is_set():
            return
        refusal, trouble = self._refusal, self._trouble
        self.close(0)
        if refusal is not None:
            raise BrokerError(f"broker {self.address} refused {self.client_id!r}: {refusal}")
        raise BrokerError(f"no broker at {self.address} within {timeout:g} s: {trouble}")

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self.client_id}", daemon=True)
        self._client.network = self._thread
        self._client._thread = self._thread  # noqa: SLF001 - tells paho that a network thread exists
        self._thread.start()

    def subscribe(self, filters: Iterable[str], qos: int = 1) -> None:
        """Subscribe, now and again after every reconnect; returns when the broker has granted it.

        In the network thread it returns at once.
        """
        added = dict.fromkeys(filters, qos)
        self._filters.update(added)
        if added and self.connected:
            self._ask(lambda: self._send_subscribe(added))

    def _send_subscribe(self, filters: dict[str, int]) -> tuple[MQTTErrorCode, int | None]:
        rc, packet_id = self._client.subscribe(
            [(topics.join(self.namespace, topic_filter), qos) for topic_filter, qos in filters.items()]
        )
        if packet_id is not None:
            self._asked[packet_id] = list(filters)
        return rc, packet_id

    def subscribed(self, topic_filter: str) -> bool:
        """Return whether a filter is subscribed, or will be once we are connected."""
        return topic_filter in self._filters

    def unsubscribe(self, filters: Iterable[str]) -> None:
        """Unsubscribe; returns when the broker has confirmed it."""
        removed = [topic_filter for topic_filter in filters if self._filters.pop(topic_filter, None) is not None]
        if removed and self.connected:
            self._ask(lambda: self._client.unsubscribe([topics.join(self.namespace, name) for name in removed]))

    def _ask(self, send: Callable[[], tuple[MQTTErrorCode, int | None]]) -> None:
        """Send a SUBSCRIBE or UNSUBSCRIBE and wait for its answer; a reconnect answers too, as it renews them all."""
        answered = threading.Event()
        with self._granting:  # the answer must not come before we know its packet id
            rc, packet_id = send()
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or packet_id is None:
                return
            self._granted[packet_id] = answered
        if not self.in_network_thread:
            clock.wait(
                lambda: answered.is_set() or self._closing.is_set() or not self.connected,
                lambda left: answered.wait(min(left, 0.5)), float("inf"),
            )  # fmt: skip

    def publish(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> bool:
        """Send one message; blocks while 500 are unacknowledged (but never in the network thread).

        Returns:
            False where a QoS 0 message was dropped because there is no connection. QoS 1 messages are kept and sent
            after the reconnect.

        Raises:
            BrokerError: the connection is closed for good.
            PayloadError: larger than MQTT, or this broker, takes.
            TopicError: this broker does not take such topics.
        """
        client = self._client
        window = _WINDOW if qos < 2 else _WINDOW_QOS_2
        if qos and client.unacknowledged >= window and not self.in_network_thread:
            self._wait_for_room(window)
        if self._closing.is_set():
            raise BrokerError(f"{self.client_id}: the connection to {self.address} is closed; {topic!r} was not sent")
        full_topic = topics.join(self.namespace, topic)
        self.check(topic, payload)
        if qos < 2:
            return client.send(full_topic.encode(), payload, qos, retain)
        rc = client.publish(full_topic, payload, qos, retain).rc
        if rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            raise BrokerError(f"{self.client_id}: could not send to {topic!r}: {rc.name}")
        return True

    def check(self, topic: str, payload: bytes) -> None:
        """Raise PayloadError for what is larger than the broker takes, TopicError for a topic that it does not take."""
        limits = self.limits
        left = limits.largest_message - len(payload)
        if left < _LONGEST_TOPIC and (size := len(topics.join(self.namespace, topic).encode())) > left:
            all_of_mqtt = limits.largest_message == BrokerLimits().largest_message
            who = "MQTT carries" if all_of_mqtt else f"the broker {self.address} takes"
            most = limits.largest_message - size
            raise PayloadError(f"{topic!r}: {len(payload)} bytes; {who} {most} at most, so send it in parts")
        if not limits.spaces and " " in topic:
            raise TopicError(f"{topic!r}: the broker {self.address} takes no topics with spaces; choose another name")

    def _wait_for_room(self, window: int) -> None:
        started = clock.monotonic()

        def room() -> bool:
            return self._client.unacknowledged < window or self._closing.is_set()

        while not clock.wait(room, lambda left: self._wait_for_acknowledgement(min(left, 0.5)), 10.0):
            waited = clock.monotonic() - started
            logger.warning("%s: waiting %.0f s for the broker to acknowledge", self.client_id, waited)

    def _wait_for_acknowledgement(self, timeout: float) -> None:
        with self._client.acknowledged:
            self._client.waiting += 1
            self._client.acknowledged.wait(timeout)
            self._client.waiting -= 1

    def acknowledge(self, receipts: Iterable[Receipt]) -> None:
        """Acknowledge messages, in one write; a receipt of an earlier connection is ignored, as MQTT demands."""
        with self._client.writing:  # no other connection comes up meanwhile
            if self.connected:
                ours = [receipt for receipt in receipts if receipt.generation == self._generation]
                self._open.difference_update([receipt.packet_id for receipt in ours])
                self._client.acknowledge(ours)

    def flush(self, timeout: float, *, patient: bool = True) -> bool:
        """Wait until the broker has confirmed all QoS 1 messages and taken the others; False after `timeout`.

        Unless `patient`, it gives up as soon as the connection is lost.
        """

        def settled() -> bool:
            return not (self._client.unacknowledged or self._client.unwritten)

        clock.wait(
            lambda: settled() or not (patient or self.connected),
            lambda left: self._wait_for_acknowledgement(min(left, 0.02)), timeout,
        )  # fmt: skip
        return settled()

    def close(self, timeout: float = 5.0) -> bool:
        """Flush for at most `timeout` seconds, disconnect (so no will is sent); True if all was confirmed."""
        flushed = self.flush(timeout, patient=False) if timeout else not self._client.unacknowledged
        self._closing.set()
        if self.connected:
            self._client.disconnect()
        self._client.wake()
        if self._thread is not None and not self.in_network_thread:
            self._thread.join(max(timeout, 1.0))
        return flushed

    def _run(self) -> None:
        """Connect, serve, and come back with a jittered backoff, until closed."""
        delay = _BACKOFF_S[0]
        while not self._closing.is_set():
            self._client.connect_async(*self.address.nodes[self._node], keepalive=_KEEPALIVE_S)
            try:
                self._client.reconnect()
            except (OSError, ValueError) as exc:
                self._trouble = str(exc) or type(exc).__name__
            else:
                while self._client.loop(timeout=0.1 if self._refused else _LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    delay = _BACKOFF_S[0] if self.connected else delay
                    self._ask_again()
                    if self._closing.is_set() and not self._client.is_connected():
                        break
                    if self.gather_s and self._client.read_little() and not self._window_full():
                        self._closing.wait(self.gather_s)  # last: what has been queued is written after it
            if self._up.is_set():
                self._lost("the connection ended")
            self._node = (self._node + 1) % len(self.address.nodes)
            self._closing.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            delay = min(delay * 2, _BACKOFF_S[1])
        self._client.close_wakeup()

    def _window_full(self) -> bool:
        """Return whether the broker sends no more until we acknowledge, so that waiting for more is in vain."""
        return len(self._open) >= self.limits.receive_maximum

    def _lost(self, reason: str) -> None:
        self._client.suspend()
        self._up.clear()
        with self._granting:
            granted = list(self._granted.values())
            self._granted.clear()
        for event in granted:
            event.set()
        if not self._closing.is_set():
            logger.warning("%s: connection to %s lost: %s", self.client_id, self._at, reason)
        self.on_down(reason)

    # --- paho's callbacks, all in the network thread

    def _guarded(self, callback: Callable[..., None]) -> Callable[..., None]:
        def guarded(_client: Any, _userdata: Any, *args: Any) -> None:
            try:
                callback(*args)
            except Exception:
                logger.exception("%s: an error in a callback of the connection", self.client_id)

        return guarded

    def _connected(self, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._trouble = f"refused: {reason}"
            if str(reason) != "Server unavailable":  # a cluster says so while it elects
                self._refusal = str(reason)
            return
        with self._client.writing:
            self._generation += 1
        self._open.clear()
        self._refused.clear()
        self._asked.clear()
        if self._filters:
            self._send_subscribe(dict(self._filters))
        self._client.resume()
        try:
            self.on_up(bool(flags.session_present))
        finally:
            if self._generation > 1:
                logger.info("%s: reconnected to %s", self.client_id, self._at)
            self._up.set()

    def _disconnected(self, _flags: Any, reason: Any, _properties: Any) -> None:
        why = _ended(reason, self.address, self._up.is_set())
        if not self._trouble.startswith("refused"):  # a broker that refuses us closes the connection, too
            self._trouble = why
        if self._up.is_set():
            self._lost(why)

    def _subscribed(self, packet_id: int, reasons: Any, _properties: Any) -> None:
        with self._granting:  # whoever asked has noted by now what for
            asked = self._asked.pop(packet_id, [])
        refused = [each for each, reason in zip(asked, reasons, strict=False) if reason.is_failure]
        granted = [each for each in asked if each in self._refused and each not in refused]
        for each in granted:
            self._refused.pop(each, None)
        if granted:
            logger.info("%s: the broker has granted subscriptions that it refused before: %s", self.client_id, granted)
        if refused:
            if not set(refused) <= self._refused.keys():
                logger.error("%s: the broker refused subscriptions, and is asked again: %s", self.client_id, refused)
            self._refused.update(dict.fromkeys(refused))
            self._ask_again_at = clock.monotonic() + self._ask_again_s
            self._ask_again_s = min(2 * self._ask_again_s, _ASK_AGAIN_S[1])
        elif not self._refused:
            self._ask_again_s = _ASK_AGAIN_S[0]
        self._answered(packet_id)

    def _ask_again(self) -> None:
        """Ask for what was refused: a cluster refuses while it elects, other brokers until a right is granted."""
        if self._refused and self.connected and clock.monotonic() >= self._ask_again_at:
            self._ask_again_at = clock.monotonic() + _ASK_AGAIN_S[1]  # unless it is answered before
            wanted = {each: self._filters[each] for each in list(self._refused) if each in self._filters}
            self._refused = dict.fromkeys(wanted)
            if wanted:
                self._send_subscribe(wanted)

    def _unsubscribed(self, packet_id: int, _reasons: Any, _properties: Any) -> None:
        self._answered(packet_id)

    def _answered(self, packet_id: int) -> None:
        with self._granting:
            event = self._granted.pop(packet_id, None)
        if event is not None:
            event.set()

    def _received(self, message: MQTTMessage) -> None:
        self._delivered(message.topic, bytes(message.payload), message.qos, message.retain, message.dup, message.mid)

    def _delivered(self, topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int) -> object:
        if not qos:
            receipt = None
        elif dup and packet_id in self._open:
            return HELD  # NATS sends again what is not acknowledged in time, though the connection stands
        else:
            receipt = Receipt(packet_id, qos, self._generation)
            self._open.add(packet_id)
        held = False
        try:
            answer = self.on_message(Message(topics.strip(self.namespace, topic), payload, qos, retain, dup), receipt)
            held = self.manual_ack or answer is HELD
            return answer
        except Exception:
            logger.exception("%s: an error in the callback for a message on %r", self.client_id, topic)
            return None
        finally:
            if not held:
                self._open.discard(packet_id)


class Driven:
    """One MQTT connection without a thread: it moves while its owner waits, and is over when either side ends it.

    For whoever looks at the broker itself; whoever publishes and subscribes wants a `Connection`.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        level: int = 4,
        persistent: bool = False,
        acknowledges: bool = True,
        will: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        """Prepare a connection.

        Args:
            level: of the protocol: 4 is MQTT 3.1.1, 5 is MQTT 5.
            acknowledges: False leaves what it receives unacknowledged.
            will: topic of a last will.
        """
        self.address = Address.parse(url)
        self.messages: list[Message] = []
        self.ended = ""
        """Why it is over."""
        self._up = False
        self._granted: dict[int, bool] = {}
        self._unacknowledged = 0
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if level == 5 else not persistent,
            protocol=MQTTProtocolVersion(level),
            reconnect_on_failure=False,
            manual_ack=not acknowledges,
        )
        client.max_inflight_messages_set(100)
        client.on_connect = self._connected
        client.on_disconnect = lambda _c, _u, _flags, reason, _p: self._end(_ended(reason, self.address, self._up))
        client.on_message = lambda _c, _u, got: self.messages.append(
            Message(got.topic, bytes(got.payload), got.qos, got.retain, got.dup)
        )
        client.on_publish = self._acknowledged
        client.on_subscribe = self._subscribed
        client.on_socket_open = lambda _c, _u, sock: _no_delay(sock)
        if will is not None:
            client.will_set(will, b"gone", qos=1)
        if self.address.user is not None:
            client.username_pw_set(self.address.user, self.address.password)
        if self.address.secure or tls is not None:
            client.tls_set_context(_trust(self.address, tls or Tls()))

    def open(self, timeout: float) -> Driven:
        """Connect, or raise BrokerError within `timeout` seconds."""
        self._client.connect_timeout = timeout
        for last, node in enumerate(self.address.nodes, 1 - len(self.address.nodes)):
            try:
                # Longer than we wait for anything; it is also how long paho lets a TLS handshake take.
                self._client.connect(*node, keepalive=round(timeout) + 5)
                break
            except (OSError, ValueError) as exc:
                if not last:
                    raise BrokerError(f"no broker at {self.address}: {getattr(exc, 'strerror', None) or exc}") from exc
        if not self.wait(lambda: self._up, timeout):
            why = self.ended or f"it takes the connection and says nothing within {timeout:g} s"
            self.drop()
            raise BrokerError(f"no broker at {self.address}: {why}")
        return self

    def wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Send and receive until a condition holds; False after `timeout` seconds, or once the connection is over."""
        deadline = clock.monotonic() + timeout
        while not condition():
            left = deadline - clock.monotonic()
            if left <= 0 or self.ended:
                return False
            rc = self._client.loop(min(left, 0.1))
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._end(rc.name)
        return True

    def subscribe(self, *filters: str, timeout: float) -> bool:
        """Subscribe at QoS 1; False where the broker refuses one or ends the connection; BrokerError for no answer."""
        rc, packet_id = self._client.subscribe([(each, 1) for each in filters])
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or packet_id is None:
            return False
        if not self.wait(lambda: packet_id in self._granted, timeout) and not self.ended:
            raise BrokerError(f"broker {self.address}: no answer to a subscription within {timeout:g} s")
        return self._granted.get(packet_id, False)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send at QoS 1; `flush` waits for the acknowledgement."""
        self._unacknowledged += 1
        self._client.publish(topic, payload, 1, retain)

    def flush(self, timeout: float) -> bool:
        """Wait until all that was sent is acknowledged."""
        return self.wait(lambda: not self._unacknowledged, timeout)

    def close(self) -> None:
        """Say goodbye."""
        if not self.ended:
            self._client.disconnect()
            self.wait(lambda: False, 0.2)  # it is written now; the broker ends it
        self.drop()

    def drop(self) -> None:
        """Vanish without a goodbye, as a machine that loses power does, only that the broker is told at once."""
        sock = self._client.socket()
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]  # paho's SocketLike is a socket here
            except OSError:
                pass  # it is closed already
        self._end("closed")
        self._client._reset_sockets()  # noqa: SLF001 - paho leaves them to the garbage collector

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason

    def _connected(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._end(f"refused: {reason}")
        else:
            self._up = True

    def _acknowledged(self, *_: Any) -> None:
        self._unacknowledged -= 1

    def _subscribed(self, _client: Any, _userdata: Any, packet_id: int, reasons: Any, _properties: Any) -> None:
        self._granted[packet_id] = not any(reason.is_failure for reason in reasons)


def _no_delay(sock: Any) -> None:
    """Without it a QoS 1 round trip costs 44 ms: Nagle's algorithm waits for the delayed acknowledgement."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        logger.debug("TCP_NODELAY is not to be had on this socket")
