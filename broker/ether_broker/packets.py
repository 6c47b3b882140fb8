"""MQTT 3.1.1 packets as bytes: strict decoding of what clients send, encoding of what the broker sends.

amqtt's own codec awaits three to five reads per packet and accepts what 3.1.1 forbids (reserved flags, a password
without a user name); these functions work on bytes already read and raise `MalformedPacket` for all of it.
"""

import re
from dataclasses import dataclass

__all__ = [
    "CONNACK_BAD_CREDENTIALS",
    "CONNACK_IDENTIFIER_REJECTED",
    "CONNACK_UNACCEPTABLE_PROTOCOL",
    "PINGRESP",
    "Connect",
    "MalformedPacket",
    "Message",
    "UnacceptableProtocol",
    "Will",
    "connack",
    "decode_connect",
    "decode_packet_id",
    "decode_subscribe",
    "decode_unsubscribe",
    "remaining_length",
    "suback",
    "utf8",
]

CONNACK_UNACCEPTABLE_PROTOCOL = 1
CONNACK_IDENTIFIER_REJECTED = 2
CONNACK_BAD_CREDENTIALS = 5
PINGRESP = b"\xd0\x00"

# 1.5.3 forbids U+0000 and lets a server refuse control and non-characters; Mosquitto refuses them, so do we.
_FORBIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef" + "".join(chr(p << 16 | e) for p in range(17) for e in (0xFFFE, 0xFFFF)) + "]"
)


class MalformedPacket(Exception):
    """The client broke the protocol; the connection must close (MQTT 3.1.1, 4.8). The text says how."""


class UnacceptableProtocol(Exception):
    """CONNECT asks for a protocol level this broker does not speak; answer 1, then close (3.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Will:
    """What to publish when the client is lost."""

    topic: bytes
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True, slots=True)
class Connect:
    """A decoded CONNECT."""

    client_id: str
    clean_session: bool
    keepalive_s: int
    will: Will | None
    username: str | None
    password: bytes | None


class Message:
    """One application message on its way to subscribers, shared by all of them and encoded once per QoS."""

    __slots__ = ("_head2", "_packet0", "head1", "location", "mid", "payload", "prefix", "qos")

    def __init__(self, prefix: bytes, payload: bytes | memoryview, qos: int, mid: int = 0, location: int = 0) -> None:
        self.prefix = prefix
        """The topic as it travels: two bytes of length, then UTF-8."""
        self.payload = payload
        self.qos = qos
        """The QoS it was published with."""
        self.mid = mid
        """Its number in the store, increasing; 0 = not stored."""
        self.location = location
        """Where the store keeps it."""
        self._packet0 = self.head1 = self._head2 = b""

    @property
    def topic(self) -> str:
        """The topic as text."""
        return self.prefix[2:].decode()

    def packet(self, retain: bool = False) -> bytes:
        """The whole PUBLISH at QoS 0."""
        if retain:
            return b"\x31" + remaining_length(len(self.prefix) + len(self.payload)) + self.prefix + self.payload
        if not self._packet0:
            size = remaining_length(len(self.prefix) + len(self.payload))
            self._packet0 = b"\x30" + size + self.prefix + self.payload
        return self._packet0

    def head(self, qos: int) -> bytes:
        """What precedes the packet identifier in a PUBLISH at QoS 1 or 2, DUP and RETAIN unset."""
        if qos == 1:
            if not self.head1:
                self.head1 = b"\x32" + remaining_length(len(self.prefix) + 2 + len(self.payload)) + self.prefix
            return self.head1
        if not self._head2:
            self._head2 = b"\x34" + remaining_length(len(self.prefix) + 2 + len(self.payload)) + self.prefix
        return self._head2


_SHORT_LENGTHS = tuple(bytes((n,)) for n in range(128))


def remaining_length(size: int) -> bytes:
    """The variable-length integer of 2.2.3 for ``0 <= size <= 268_435_455``."""
    if size < 128:
        return _SHORT_LENGTHS[size]
    encoded = bytearray()
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def utf8(data: bytes) -> str:
    """`data` as text.

    Raises:
        MalformedPacket: not UTF-8, or a control or non-character in it.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise MalformedPacket("a string is not UTF-8") from None
    if _FORBIDDEN.search(text):
        raise MalformedPacket("a string holds a control or non-character")
    return text


class _Fields:
    """Reads fields off the front of a packet's body."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.body):
            raise MalformedPacket("the packet ends in the middle of a field")
        field = self.body[self.at : end]
        self.at = end
        return field

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def binary(self) -> bytes:
        return self.take(self.integer())

    def text(self) -> str:
        return utf8(self.binary())

    def packet_id(self) -> int:
        packet_id = self.integer()
        if packet_id == 0:
            raise MalformedPacket("packet identifier 0")
        return packet_id

    @property
    def left(self) -> bool:
        return self.at < len(self.body)


def decode_connect(body: bytes) -> Connect:
    """The CONNECT in `body` (everything behind the fixed header).

    Raises:
        UnacceptableProtocol: a protocol level other than 4 (or 3, MQIsdp, which Mosquitto accepts as well).
        MalformedPacket: whatever else is wrong.
    """
    fields = _Fields(body)
    name = fields.binary()
    level = fields.byte()
    if name not in (b"MQTT", b"MQIsdp"):
        raise MalformedPacket(f"protocol name {name[:20]!r}")
    if level not in ((4,) if name == b"MQTT" else (3,)):
        raise UnacceptableProtocol(f"protocol level {level}; this broker speaks MQTT 3.1.1")
    flags = fields.byte()
    keepalive_s = fields.integer()
    has_will, will_qos = bool(flags & 0x04), flags >> 3 & 3
    if flags & 0x01:
        raise MalformedPacket("CONNECT with its reserved flag set")
    if will_qos == 3 or (not has_will and flags & 0x38):
        raise MalformedPacket("CONNECT with impossible will flags")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket("CONNECT with a password but no user name")
    client_id = fields.text()
    will = None
    if has_will:
        topic = fields.text()
        if not topic or "+" in topic or "#" in topic:
            raise MalformedPacket("a will topic that is empty or has wildcards")
        will = Will(topic.encode(), fields.binary(), will_qos, bool(flags & 0x20))
    username = fields.text() if flags & 0x80 else None
    password = fields.binary() if flags & 0x40 else None
    if fields.left:
        raise MalformedPacket("bytes behind the last field of CONNECT")
    return Connect(client_id, bool(flags & 0x02), keepalive_s, will, username, password)


def decode_subscribe(body: bytes) -> tuple[int, list[tuple[str, int]]]:
    """Packet identifier and (filter, requested QoS) pairs of a SUBSCRIBE."""
    fields = _Fields(body)
    packet_id = fields.packet_id()
    requests = []
    while fields.left:
        topic_filter, qos = fields.text(), fields.byte()
        if qos > 2:
            raise MalformedPacket(f"SUBSCRIBE asks for QoS {qos}")
        requests.append((topic_filter, qos))
    if not requests:
        raise MalformedPacket("SUBSCRIBE without a filter")
    return packet_id, requests


def decode_unsubscribe(body: bytes) -> tuple[int, list[str]]:
    """Packet identifier and filters of an UNSUBSCRIBE."""
    fields = _Fields(body)
    packet_id = fields.packet_id()
    filters = []
    while fields.left:
        filters.append(fields.text())
    if not filters:
        raise MalformedPacket("UNSUBSCRIBE without a filter")
    return packet_id, filters


def decode_packet_id(body: bytes) -> int:
    """The packet identifier that is all of a PUBACK, PUBREC, PUBREL or PUBCOMP."""
    if len(body) != 2:
        raise MalformedPacket("an acknowledgement that is not two bytes long")
    return body[0] << 8 | body[1]


def connack(return_code: int, session_present: bool = False) -> bytes:
    """CONNACK; a refusal never claims a session (3.2.2.2)."""
    return bytes((0x20, 2, session_present and return_code == 0, return_code))


def suback(packet_id: int, return_codes: list[int]) -> bytes:
    """SUBACK with one code per requested filter, in their order."""
    return b"\x90" + remaining_length(2 + len(return_codes)) + packet_id.to_bytes(2, "big") + bytes(return_codes)
