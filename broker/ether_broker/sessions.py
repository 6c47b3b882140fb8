"""The state of one client, which may outlive its connection: subscriptions, queue, messages in flight."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection
    from .limits import Limits
    from .packets import Message
    from .store import Store

__all__ = ["Counters", "Session"]

_AT_ONCE = 300
"""Messages of a queue that are sent in one go, some 5 ms; others have their turn before the next."""
_ENTRY_BYTES = 200
"""What a waiting message costs beside its payload, so that a million empty ones count too."""


@dataclass(slots=True)
class Counters:
    """What `$SYS` reports. Plain integers, added to on the way."""

    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    publish_received: int = 0
    publish_sent: int = 0
    publish_dropped: int = 0
    publish_bytes_received: int = 0
    publish_bytes_sent: int = 0
    clients_expired: int = 0
    clients_maximum: int = 0
    holding: set[Session] = field(default_factory=set)
    """Sessions that hold publishers back right now."""


class Session:
    """One client's state.

    QoS 1 and 2 messages pass `deliver` → `queue` (in memory) or `spilled` (on disk) → `inflight` → acknowledged, in
    the order the broker received them. `inflight` maps packet identifier to (message, qos, retain), oldest first, or
    to None where the message is confirmed (PUBREC) and only PUBCOMP is missing.
    """

    __slots__ = (
        "client_id", "connection", "counters", "durable", "held", "inflight", "inflight_bytes", "last_id", "left_at",
        "limits", "number", "owner", "persistent", "progress_at", "queue", "queue_bytes", "received", "spilled",
        "store", "subscriptions",
    )  # fmt: skip

    def __init__(
        self, client_id: str, persistent: bool, limits: Limits, counters: Counters, store: Store | None, number: int = 0
    ) -> None:
        self.client_id = client_id
        self.persistent = persistent
        self.limits = limits
        self.counters = counters
        self.store = store
        self.durable = persistent and store is not None
        """Its QoS 1 and 2 messages are in the store before anybody acknowledges them."""
        self.number = number
        """Its name in the store; 0 for a session that is not stored."""
        self.owner = ""
        """The user whose session it is; nobody else may take it over."""
        self.subscriptions: dict[str, int] = {}
        self.connection: Connection | None = None
        self.inflight: dict[int, tuple[Message, int, bool] | None] = {}
        self.inflight_bytes = 0
        self.queue: deque[tuple[Message, int, bool]] = deque()
        self.queue_bytes = 0
        self.spilled: deque[int] = deque()
        """Locations in the store, all younger than `queue`."""
        self.received: set[int] = set()
        """Packet identifiers of QoS 2 messages taken from the client and not yet released (4.3.3)."""
        self.last_id = 0
        self.held: set[Connection] = set()
        """Publishers held back until this session's queue has drained."""
        self.progress_at = 0.0
        self.left_at = 0.0
        """When the client left, seconds since the Unix epoch."""

    def deliver(self, message: Message, qos: int, retain: bool, publisher: Connection | None) -> None:
        """Send at QoS 1 or 2 now, or queue behind what waits already."""
        connection, limits = self.connection, self.limits
        if (
            connection is not None
            and connection.writable
            and not self.queue
            and not self.spilled
            and len(self.inflight) < limits.inflight_messages
            and self.inflight_bytes < limits.inflight_bytes
        ):
            self._send(connection, message, qos, retain)
        else:
            self._enqueue(message, qos, retain, publisher)

    def _send(self, connection: Connection, message: Message, qos: int, retain: bool) -> None:
        inflight, packet_id = self.inflight, self.last_id % 65535 + 1
        while packet_id in inflight:  # the window is far smaller than 65,535, so one is free
            packet_id = packet_id % 65535 + 1
        self.last_id = packet_id
        inflight[packet_id] = (message, qos, retain)
        self.inflight_bytes += len(message.payload)
        if self.durable:
            self.store.sent(self.number, message.mid, packet_id)  # type: ignore[union-attr]  # durable = has a store
        connection.send_publish(message, qos, packet_id, retain)

    def _enqueue(self, message: Message, qos: int, retain: bool, publisher: Connection | None) -> None:
        limits = self.limits
        size = len(message.payload) + _ENTRY_BYTES
        full = self.queue_bytes + size > limits.queue_bytes
        if self.durable and (full or self.spilled):
            self.spilled.append(message.location)
            return
        if self.connection is None and self.queue_bytes + size > limits.absent_bytes:
            self.counters.publish_dropped += 1
            return
        self.queue.append((message, qos, retain))
        self.queue_bytes += size
        if full and self.connection is not None and publisher is not None:
            if not self.held:
                self.progress_at = publisher.heard_at
                self.counters.holding.add(self)
            self.held.add(publisher)
            publisher.hold(self)

    def pump(self) -> None:
        """Send what waits, as far as the window and the connection allow; flush() comes back for the rest."""
        connection = self.connection
        limits = self.limits
        left = _AT_ONCE
        while (
            left
            and connection is not None
            and connection.writable
            and (self.queue or self.spilled)
            and len(self.inflight) < limits.inflight_messages
            and self.inflight_bytes < limits.inflight_bytes
        ):
            if not self.queue and not self._unspill():
                break
            message, qos, retain = self.queue.popleft()
            self.queue_bytes -= len(message.payload) + _ENTRY_BYTES
            self._send(connection, message, qos, retain)
            self.progress_at = connection.heard_at
            left -= 1
        if self.held and self.queue_bytes < limits.queue_bytes // 2:
            self.release_publishers()

    def _unspill(self) -> bool:
        """Bring the next few spilled messages back into the queue; False if there is none to be had now."""
        assert self.store is not None
        budget = min(self.limits.queue_bytes, 1024 * 1024)
        try:
            while self.spilled and self.queue_bytes < budget and len(self.queue) < _AT_ONCE:
                found = self.store.read(self.spilled[0], self.number)
                self.spilled.popleft()
                if found is not None:  # None: its bytes went bad on disk; the store has said so
                    self.queue.append(found)
                    self.queue_bytes += len(found[0].payload) + _ENTRY_BYTES
        except OSError:
            return bool(self.queue)  # the disk is full; the broker says so, and comes back when it is not
        return bool(self.queue)

    def release_publishers(self) -> None:
        """Let the publishers go that were held back for this session."""
        self.counters.holding.discard(self)
        for connection in self.held:
            connection.unhold(self)
        self.held.clear()

    def acknowledged(self, packet_id: int, qos: int) -> bool:
        """PUBACK (`qos` 1) or PUBREC (2): the client has the message. False for an identifier it does not apply to."""
        entry = self.inflight.get(packet_id)
        if entry is None or entry[1] != qos:
            return False
        message = entry[0]
        self.inflight_bytes -= len(message.payload)
        if qos == 1:
            del self.inflight[packet_id]
        else:
            self.inflight[packet_id] = None
        if self.durable:
            self.store.confirmed(self.number, message, packet_id, qos)  # type: ignore[union-attr]
        return True

    def completed(self, packet_id: int) -> None:
        """PUBCOMP: the identifier of a QoS 2 message is free again."""
        if packet_id in self.inflight and self.inflight[packet_id] is None:
            del self.inflight[packet_id]
            if self.durable:
                self.store.completed(self.number, packet_id)  # type: ignore[union-attr]

    def resume(self, connection: Connection) -> None:
        """Take over a new connection: send again what was in flight (4.4), then what waits."""
        self.connection = connection
        for packet_id, entry in self.inflight.items():
            if entry is None:
                connection.send(b"\x62\x02" + packet_id.to_bytes(2, "big"))
            else:
                connection.send_publish(*entry[:2], packet_id, entry[2], dup=True)
        self.pump()

    @property
    def waiting(self) -> int:
        """Messages queued or in flight."""
        return len(self.queue) + len(self.spilled) + len(self.inflight)
