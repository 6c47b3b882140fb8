"""Streams of MQTT packets, damaged in the ways streams get damaged. The same seed gives the same streams."""

import random

from ether.testing.broker_contract import MALFORMED, REFUSED_CONNECTS, wire

TOPICS = ["fuzz/a", "fuzz/ü", "$x", "", "/", "fuzz/" + "a" * 300, "/".join("a" * 199), b"fuzz/\xff", "$SYS/x", "fuzz/+"]
FILTERS = [
    "fuzz/#",
    "+/a",
    "#",
    "$share/g/fuzz/a",
    "$share//x",
    "$share/g",
    "+/" * 198 + "#",
    "a#",
    "",
    b"\xed\xa0\x80",
]


def damaged(chance: random.Random) -> tuple[bytes, int]:
    """Return a stream and the number of packets that went into it."""
    topic, topic_filter, packet_id = chance.choice(TOPICS), chance.choice(FILTERS), chance.choice([0, 1, 1, 2, 65535])
    payload = chance.randbytes(chance.choice([0, 5, 300, 300, 20_000]))
    packets = [
        wire.publish("fuzz/a", payload, chance.randrange(4), packet_id, retain=chance.random() < 0.3),
        wire.publish(topic, payload, chance.randrange(3), packet_id, dup=chance.random() < 0.3),
        wire.subscribe(("fuzz/#", chance.randrange(3)), packet_id=packet_id),
        wire.subscribe((topic_filter, chance.randrange(4)), (topic_filter, 1), packet_id=packet_id),
        wire.unsubscribe(chance.choice(["fuzz/#", "#", ""]), packet_id=packet_id),
        *(wire.acknowledge(first, chance.randrange(4)) for first in (0x40, 0x50, 0x62, 0x70)),
        b"\xc0\x00",
        wire.packet(chance.randrange(256), chance.randbytes(chance.randrange(20))),
        chance.choice(list(MALFORMED.values())),
    ]
    will = ("fuzz/will", b"w", chance.randrange(3), chance.random() < 0.5)
    first = wire.connect(
        f"fuzz-{chance.randrange(20)}", clean=chance.random() < 0.5, keepalive_s=chance.choice([0, 1, 65535]), will=will
    )
    if chance.random() < 0.05:
        first = chance.choice(list(REFUSED_CONNECTS.values()))
    # The well-formed ones more often, else few streams get far.
    weights = [6, 2, 3, 1, 1, 3, 3, 3, 3, 2, 0.3, 0.3]
    chosen = [first, *chance.choices(packets, weights, k=chance.randrange(1, 40))]
    stream = bytearray(b"".join(chosen))
    for _ in range(chance.choice([0, 0, 1, 1, 2, 10])):
        at = chance.randrange(len(stream))
        match chance.randrange(5):
            case 0:
                stream[at] ^= 1 << chance.randrange(8)
            case 1:
                del stream[at : at + chance.randrange(1, 9)]
                stream = stream or bytearray(b"\0")
            case 2:
                stream[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                stream[at:at] = stream[at : at + chance.randrange(1, 200)]
            case _:
                stream[at] = chance.choice([0, 0x7F, 0x80, 0xFF])
    return bytes(stream), len(chosen)
