"""One client's socket: bytes in, packets handled in the order they came, bytes out once per turn of the loop.

Replaces amqtt's `BrokerProtocolHandler` and its stream adapters, which spend some fifteen tasks and three to five
awaits on a message, never enforce keepalive (amqtt #308), give up on unacknowledged messages after 5 s (#391), and
answer a publish to `$…` by acknowledging and discarding everything that follows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from . import packets
from .packets import MalformedPacket, Message

if TYPE_CHECKING:
    from .acl import Access
    from .broker import EtherBroker
    from .sessions import Session

__all__ = ["CONNECT_BYTES", "Connection"]

logger = logging.getLogger(__name__)

CONNECT_BYTES = 5 * 65537 + 12
"""The longest CONNECT there can be; more is refused before it is read."""
_LARGE = 32 * 1024
"""Payloads from here on are handed to the socket as they are instead of being joined with their neighbours."""


_CHUNK = 64 * 1024
"""Read at most so much of a client before the others have their turn: some 6 ms of small messages."""
_DENSE_CHUNK = 8 * 1024
"""The same while packets are shorter than 32 bytes, as the acknowledgements of a recorder that has ten thousand due."""
_LARGE_CHUNK = 1024 * 1024
"""The same while a packet larger than a chunk comes in, which costs next to nothing until it is whole."""
_HELD_CHUNK = 256 * 1024
"""The same for a client that is held back and read now and then."""


class Connection(asyncio.Protocol):
    """The socket of one client, from accept to close."""

    __slots__ = (
        "_aborting", "_chunk", "_confirmed", "_dirty", "_dropping", "_holders", "_missing", "_out", "_out_bytes",
        "_parts", "_paused", "_transport", "access", "broker", "clean_end", "client_id", "closed", "connected_at",
        "heard_at", "keepalive_s", "listener", "peer", "session", "waiting_auth", "will", "writable",
    )  # fmt: skip

    def __init__(self, broker: EtherBroker, listener: str) -> None:
        self.broker = broker
        self.listener = listener
        self.session: Session | None = None
        self.access: Access | None = None
        """What it may do; None = everything."""
        self.client_id = ""
        self.peer = "?"
        self.will: packets.Will | None = None
        self.keepalive_s = 0
        self.connected_at = self.heard_at = 0.0
        self.writable = True
        """Whether QoS 1 and 2 may be encoded for this client now."""
        self.closed = False
        self.clean_end = False
        """The client said DISCONNECT: no will."""
        self.waiting_auth = False
        self._transport: asyncio.Transport | None = None
        self._chunk = 0
        self._parts: list[bytes] = []
        self._missing = 0
        self._confirmed: list[bytes] = []
        """Packet identifiers of QoS 1 publishes in the chunk at hand, to be acknowledged at its end."""
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._dropping = False
        self._dirty = False
        self._paused = False
        self._holders: set[object] = set()
        self._aborting: asyncio.TimerHandle | None = None

    # -- what asyncio calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted. asyncio has set TCP_NODELAY on it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=256 * 1024)
        self._read_at_most(_CHUNK)
        self.connected_at = self.heard_at = self.broker.loop.time()
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "?")
        self.broker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, from either side."""
        self.closed = True
        self.writable = False
        if self._aborting is not None:
            self._aborting.cancel()  # it would keep all this in memory
        self._out.clear()
        self._parts.clear()
        self.broker.lost(self)
        self.broker.gone(self)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._paused = True
        self.writable = False

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._paused = False
        self.heard_at = self.broker.loop.time()  # a client that reads is alive, though it may be too busy to ping
        if self in self._holders:
            self.unhold(self)
        self._wake()

    def data_received(self, data: bytes) -> None:
        """Handle every complete packet in `data` and what was left of earlier chunks."""
        self.heard_at = self.broker.loop.time()
        self.broker.counters.bytes_received += len(data)
        if self._parts:
            # A large packet arrives in many chunks: joined once, when it is whole.
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0 or self.waiting_auth:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        if self.waiting_auth:
            self._parts.append(data)
            return
        if not self.closed:
            self._handle_or_close(data)

    # -- input --

    def _handle_or_close(self, data: bytes) -> None:
        broker = self.broker
        flush_due, broker.flush_due = broker.flush_due, True
        try:
            self._handle(data)
        except MalformedPacket as exc:
            logger.warning("%s: %s; connection closed", self.name, exc)
            self.close()
        finally:
            if not flush_due:
                broker.input_handled()

    def _handle(self, data: bytes) -> None:
        at, end = 0, len(data)
        count = published = published_bytes = 0
        broker, largest = self.broker, self.broker.limits.packet_bytes
        session, confirmed = self.session, self._confirmed
        try:
            while end - at >= 2 and not self.closed:
                first, size, body = data[at], data[at + 1], at + 2
                if size > 127:
                    size, body = self._long_size(data, at)
                    if size < 0:
                        self._missing = 1
                        break
                    if size > largest:
                        self._check_size(first, size)
                stop = body + size
                if stop > end:
                    self._check_size(first, size)
                    self._missing = stop - end
                    break
                count += 1
                if first >> 4 == 3 and session is not None:
                    published += 1
                    published_bytes += self._publish(data, at, first, body, stop)
                elif first == 0x40 and size == 2 and session is not None:
                    session.acknowledged(data[body] << 8 | data[body + 1], 1)
                else:
                    if confirmed:
                        self._send_confirmations()
                    self._check_size(first, size)
                    self._other(first, data[body:stop])
                    session = self.session
                    if self.waiting_auth:
                        at = stop
                        break
                at = stop
        finally:
            counters = broker.counters
            counters.messages_received += count
            counters.publish_received += published
            counters.publish_bytes_received += published_bytes
            if confirmed:
                self._send_confirmations()
        if at < end and not self.closed:
            self._parts.append(data[at:] if at else data)
            self._missing = max(self._missing, 1)
        if self._missing > _CHUNK:
            self._read_at_most(_LARGE_CHUNK)
        else:
            self._read_at_most(_DENSE_CHUNK if end < 32 * count else _CHUNK)
        if session is not None and not self._dirty and (session.queue or session.spilled or session.held):
            session.pump()  # else flush() will, at the end of this turn
        if self._paused and self._out_bytes > broker.limits.write_bytes:
            self.hold(self)  # it sends without reading our answers; they must not pile up

    def _read_at_most(self, size: int) -> None:
        """Bound the next chunk. asyncio's own sockets take `max_size`; other transports pay it no heed."""
        if size != self._chunk and self._transport is not None:
            self._chunk = size
            self._transport.max_size = size  # type: ignore[attr-defined]  # undocumented, asyncio/selector_events.py

    @staticmethod
    def _long_size(data: bytes, at: int) -> tuple[int, int]:
        """(remaining length, where the body starts), or (-1, 0) while bytes are missing."""
        size = shift = 0
        for index in range(at + 1, at + 5):
            if index >= len(data):
                return -1, 0
            size |= (data[index] & 127) << shift
            if data[index] < 128:
                if data[index] == 0 and shift:  # passed on as it came, it would reach subscribers
                    raise MalformedPacket("a remaining length with more bytes than it needs")
                return size, index + 1
            shift += 7
        raise MalformedPacket("a remaining length of more than four bytes")

    def _check_size(self, first: int, size: int) -> None:
        limit = self.broker.limits.packet_bytes if self.session is not None else CONNECT_BYTES
        if size > limit:
            raise MalformedPacket(f"a packet of {size} bytes; at most {limit} are accepted")
        if self.session is None and first != 0x10:
            raise MalformedPacket("the first packet is not CONNECT")

    def _publish(self, data: bytes, at: int, first: int, body: int, stop: int) -> int:
        """Take one PUBLISH; returns the size of its payload."""
        broker = self.broker
        qos = first >> 1 & 3
        topic_end = body + 2 + (data[body] << 8 | data[body + 1]) if stop - body > 1 else stop + 1
        payload_at = topic_end + 2 if qos else topic_end
        if payload_at > stop:
            raise MalformedPacket("the packet ends in the middle of a field")
        prefix = data[body:topic_end]
        route = broker.routes.get(prefix) or broker.find_route(prefix)
        if self.access is not None and not self.access.may_publish(prefix):
            route = broker.denied(self, prefix)
        size = stop - payload_at
        if first == 0x30:  # as it came, so it goes: no new encoding
            broker.publish_at_most_once(route, data[at:stop], size)
            return size
        payload: bytes | memoryview
        if size >= _LARGE and 2 * size > len(data):
            payload = memoryview(data)[payload_at:stop]  # no copy; it keeps little more than itself in memory
        else:
            payload = data[payload_at:stop]
        if qos == 0:
            broker.publish(route, Message(prefix, payload, 0), bool(first & 1), self)
            return size
        packet_id = data[topic_end:payload_at]
        if packet_id == b"\0\0":
            raise MalformedPacket("packet identifier 0")
        if qos == 1:
            message = Message(prefix, payload, 1)
            if first == 0x32:  # as it came, so it goes, but for its identifier
                message.head1 = data[at:topic_end]
            broker.publish(route, message, bool(first & 1), self)
            self._confirmed.append(packet_id)
        elif qos == 2:
            self._receive_once(route, Message(prefix, payload, 2), bool(first & 1), packet_id)
        else:
            raise MalformedPacket("PUBLISH at QoS 3")
        return size

    def _receive_once(self, route: object, message: Message, retain: bool, packet_id: bytes) -> None:
        """QoS 2, 4.3.3 method B: pass the message on at once, and remember its identifier until PUBREL."""
        session = self.session
        assert session is not None
        number = int.from_bytes(packet_id, "big")
        if number not in session.received:
            session.received.add(number)
            if session.durable:
                session.store.received(session.number, number)  # type: ignore[union-attr]  # durable = has a store
            self.broker.publish(route, message, retain, self)  # type: ignore[arg-type]
        self.send(b"\x50\x02" + packet_id)

    def _send_confirmations(self) -> None:
        """Send the PUBACKs of what one chunk brought, as one piece."""
        confirmed = self._confirmed
        self.send(b"\x40\x02" + b"\x40\x02".join(confirmed))
        self.broker.counters.messages_sent += len(confirmed) - 1  # flush counts pieces
        confirmed.clear()

    def _other(self, first: int, body: bytes) -> None:
        """Any packet but PUBLISH and PUBACK."""
        session = self.session
        if session is None:
            self.broker.connect(self, body)
            return
        match first:
            case 0x50:  # PUBREC; an unknown identifier gets its PUBREL too, so that the client can finish
                packet_id = packets.decode_packet_id(body)
                session.acknowledged(packet_id, 2)
                self.send(b"\x62\x02" + body)
            case 0x62:  # PUBREL
                packet_id = packets.decode_packet_id(body)
                if packet_id in session.received:
                    session.received.discard(packet_id)
                    if session.durable:
                        session.store.released(session.number, packet_id)  # type: ignore[union-attr]
                self.send(b"\x70\x02" + body)
            case 0x70:  # PUBCOMP
                session.completed(packets.decode_packet_id(body))
            case 0x82:
                self.broker.subscribe(self, session, *packets.decode_subscribe(body))
            case 0xA2:
                self.broker.unsubscribe(self, session, *packets.decode_unsubscribe(body))
            case 0xC0 if not body:
                self.send(packets.PINGRESP)
            case 0xE0 if not body:
                self.clean_end = True
                self.close()
            case _:
                raise MalformedPacket(f"an unexpected packet, first byte 0x{first:02x}, {len(body)} bytes")

    def authenticated(self) -> None:
        """Go on with what arrived while the credentials were checked."""
        self.waiting_auth = False
        if self._parts and not self.closed:
            parts, self._parts = self._parts, []
            self._handle_or_close(b"".join(parts))
        self._transport_resume()

    # -- holding a publisher back --

    def hold(self, holder: object) -> None:
        """Read no more from this client until `unhold`, or until the broker's slice timer lets one chunk through."""
        if not self._holders and self._transport is not None and not self.closed:
            self._transport.pause_reading()
            self.broker.held.add(self)
        self._holders.add(holder)

    def unhold(self, holder: object) -> None:
        """`holder` is content."""
        self._holders.discard(holder)
        if not self._holders:
            self._transport_resume()

    def let_one_chunk_through(self) -> None:
        """Resume reading; the next publish to a full queue holds this client again."""
        self._holders.clear()
        self._read_at_most(_HELD_CHUNK)
        self._transport_resume()

    def _transport_resume(self) -> None:
        self.broker.held.discard(self)
        self.heard_at = self.broker.loop.time()  # silence while held was ours, not the client's
        if not self.closed and self._transport is not None:
            self._transport.resume_reading()

    @property
    def reading(self) -> bool:
        """Whether we listen; the keepalive of a client we do not listen to cannot expire."""
        return not self._holders and not self.waiting_auth

    def stop_reading(self) -> None:
        """Read nothing until `authenticated`."""
        self.waiting_auth = True
        if self._transport is not None:
            self._transport.pause_reading()

    # -- output --

    def send(self, packet: bytes) -> None:
        """Queue one small packet for the end of this turn."""
        self._out.append(packet)
        self._out_bytes += len(packet)
        if not self._dirty:
            self._dirty = True
            self.broker.schedule(self)

    def send_publish(self, message: Message, qos: int, packet_id: int, retain: bool, dup: bool = False) -> None:
        """Queue a PUBLISH at QoS 1 or 2."""
        head = (qos == 1 and message.head1) or message.head(qos)
        if retain or dup:
            head = bytes((head[0] | retain | dup << 3,)) + head[1:]
        payload, broker = message.payload, self.broker
        counters, size = broker.counters, len(payload)
        self._out_bytes += size + len(head) + 2
        if size < _LARGE:
            self._out.append(head + packet_id.to_bytes(2, "big") + payload)
        else:
            self._out += (head + packet_id.to_bytes(2, "big"), payload)
            counters.messages_sent -= 1  # flush counts pieces
        counters.publish_sent += 1
        counters.publish_bytes_sent += size
        if self._out_bytes > broker.limits.write_bytes:
            self.writable = False
        if not self._dirty:
            self._dirty = True
            broker.schedule(self)

    def send_at_most_once(self, packet: bytes, payload_size: int) -> None:
        """Queue a PUBLISH at QoS 0, or drop and count it if this client is too far behind."""
        counters = self.broker.counters
        if self._out_bytes > self.broker.limits.qos0_bytes:
            counters.publish_dropped += 1
            if not self._dropping:  # once for a connection
                self._dropping = True
                logger.warning("%s: reads too slowly; messages at QoS 0 to it are being dropped", self.client_id)
            return
        self._out.append(packet)
        self._out_bytes += len(packet)
        counters.publish_sent += 1
        counters.publish_bytes_sent += payload_size
        if not self._dirty:
            self._dirty = True
            self.broker.schedule(self)

    def _wake(self) -> None:
        """Write what has gathered while the client was slow, then let its session send more."""
        if not self.closed and not self._dirty:
            self._dirty = True
            self.broker.schedule(self)

    def flush(self) -> None:
        """Write everything queued, as far as the client reads. The broker calls this after the store's commit."""
        self._dirty = False
        transport = self._transport
        if self._paused or transport is None or self.closed:
            return
        out, self._out = self._out, []
        self.broker.counters.bytes_sent += self._out_bytes
        self.broker.counters.messages_sent += len(out)
        self._out_bytes = 0
        small: list[bytes | memoryview] = []
        for index, packet in enumerate(out):
            if len(packet) < _LARGE:
                small.append(packet)
                continue
            if small:
                transport.write(b"".join(small))
                small = []
            transport.write(packet)
            if self._paused:  # keep the rest as it is: the transport would copy it
                self._out[:0] = out[index + 1 :]
                self._out_bytes = sum(map(len, self._out))
                self.broker.counters.bytes_sent -= self._out_bytes
                self.broker.counters.messages_sent -= len(self._out)
                break
        if small:
            transport.write(b"".join(small))
        self.writable = not self._paused
        if self.writable and self.session is not None:
            self.session.pump()

    def close(self) -> None:
        """Close after what is queued has been written; the broker hears of it through `connection_lost`."""
        if self.closed:
            return
        self.closed = True
        self.writable = False
        transport = self._transport
        if transport is None:
            return
        if self._out and not self._paused and self.broker.commit():
            transport.write(b"".join(self._out))
        self._out.clear()
        self.broker.lost(self)
        # A client that reads nothing would keep close() waiting for ever.
        if self._paused:
            transport.abort()
        else:
            transport.close()
            self._aborting = self.broker.loop.call_later(5.0, transport.abort)

    def abort(self) -> None:
        """Close at once; what was not written is not."""
        self.close()
        if self._transport is not None:
            self._transport.abort()

    @property
    def name(self) -> str:
        """How the log calls this client."""
        return self.client_id or self.peer
