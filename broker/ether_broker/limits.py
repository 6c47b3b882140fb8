"""Every bound of the broker in one place."""

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client may ask of the broker. The defaults suit a lab bench; tests make them small."""

    packet_bytes: int = 64 * 1024 * 1024
    """Largest packet accepted from a client; a client that announces more is disconnected before it is read."""

    connections: int = 1000
    """Clients connected at once; one more is closed at accept."""

    connect_timeout_s: float = 10.0
    """How long a socket may stay open without a complete CONNECT."""

    topic_levels: int = 200
    """Levels in a topic or filter (Mosquitto's number); more is malformed."""

    inflight_messages: int = 10_000
    """QoS 1 and 2 messages sent to a client and not yet acknowledged. A recorder that confirms after its disk flush
    moves at most this many messages per flush."""

    inflight_bytes: int = 32 * 1024 * 1024
    """The same window, counted in payload bytes; one message may always be in flight."""

    write_bytes: int = 1024 * 1024
    """Bytes encoded for a client in one go; beyond, QoS 1 and 2 wait in its queue, still shared and not encoded."""

    qos0_bytes: int = 16 * 1024 * 1024
    """Bytes that may wait for a slow client before QoS 0 to it is dropped and counted."""

    queue_bytes: int = 16 * 1024 * 1024
    """QoS 1 and 2 waiting in memory for one client. Beyond: on disk only for a stored session, otherwise the publishers
    are held back."""

    absent_bytes: int = 256 * 1024 * 1024
    """Without a store: what may wait in memory for an absent persistent session before it is dropped and counted."""

    hold_s: float = 1.0
    """A held publisher is read one chunk (at most 256 KiB) per this time, so that acknowledgements behind its publishes
    still come through and two clients that hold each other cannot lock up."""

    stall_timeout_s: float = 60.0
    """A client that holds publishers and takes nothing for so long is disconnected."""

    session_expiry_s: float = 7 * 86400.0
    """A persistent session is forgotten this long after its client left."""

    sys_interval_s: float = 10.0
    """Time between two updates of `$SYS` (Mosquitto's default)."""
